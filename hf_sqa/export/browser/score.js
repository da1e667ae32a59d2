// Scores a recording with model.onnx, as hf_sqa does: a gate, one channel at 16 kHz, windows, their mean.
import * as ort from "./onnxruntime-web/ort.wasm.min.mjs";

// hf_sqa/audio/gate.py: this long or shorter is refused, and so is what spans less than a step of 16 bits.
const MIN_SECONDS = 0.25;
const SHORT_SECONDS = 1.0;
const ONE_STEP = 1 / 32768;
const CANCELLED_DB = -40;

ort.env.wasm.wasmPaths = new URL("./onnxruntime-web/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need a server that isolates the page (COOP and COEP)

export class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

export async function load(folder = "./") {
  const config = await (await fetched(folder + "config.json")).json();
  if (config.model_type !== "distilled_sqa") throw new Error(`Expected a distilled_sqa, got ${config.model_type}.`);
  if (config.score_mapping) throw new Error("This checkpoint maps its scores (score_mapping), which this page does not do.");
  const graph = await (await fetched(folder + "model.onnx")).arrayBuffer();
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  return { config, session };
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  return answer;
}

// Channels at the rate of the recording, by the decoder of the browser. `encoded` is emptied.
export async function decode(encoded) {
  // The context resamples to its own rate, with a filter that moves scores by up to 0.08: it gets the rate of the recording.
  const samplingRate = nativeRate(new Uint8Array(encoded));
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, samplingRate).decodeAudioData(encoded);
  } catch (error) {
    throw new Refused("undecodable", `The browser cannot decode it (${error.message}).`);
  }
  return { channels: Array.from({ length: audio.numberOfChannels }, (_, index) => audio.getChannelData(index)), samplingRate };
}

// Rate in the header of WAV, FLAC, Ogg Vorbis and MP3; for all else 48000, which is that of Opus.
export function nativeRate(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (start, length) => String.fromCharCode(...bytes.subarray(start, start + length));
  if (text(0, 4) === "RIFF" && text(8, 4) === "WAVE") {
    for (let at = 12; at + 16 <= bytes.length; at += 8 + view.getUint32(at + 4, true) + (view.getUint32(at + 4, true) & 1)) {
      if (text(at, 4) === "fmt ") return view.getUint32(at + 12, true);
    }
  }
  if (text(0, 4) === "fLaC" && bytes.length > 21) return view.getUint32(18) >>> 12;
  if (text(0, 4) === "OggS" && text(29, 6) === "vorbis" && bytes.length > 44) return view.getUint32(40, true);
  let at = 0;
  if (text(0, 3) === "ID3") at = 10 + ((bytes[6] << 21) | (bytes[7] << 14) | (bytes[8] << 7) | bytes[9]);
  if (bytes[at] === 0xff && (bytes[at + 1] & 0xe0) === 0xe0) {
    const rate = [44100, 48000, 32000][(bytes[at + 2] >> 2) & 3];
    const divisor = { 3: 1, 2: 2, 0: 4 }[(bytes[at + 1] >> 3) & 3];
    if (rate && divisor) return rate / divisor;
  }
  return 48000;
}

// Linear-phase resampling with the band of soxr's HQ, which hf_sqa uses: flat to 0.913 of the lower band edge, then 120 dB down.
export function resample(samples, from, to) {
  if (from === to) return samples;
  const divisor = (function common(a, b) { return b ? common(b, a % b) : a; })(from, to);
  const numPhases = to / divisor, step = from / divisor;
  const edge = Math.min(from, to) / 2, flat = 0.913 * edge;
  const cutoff = (flat + edge) / from; // twice the middle of the slope, in cycles a sample
  const half = Math.ceil(112 / (2.285 * 2 * Math.PI * ((edge - flat) / from)) / 2);
  const beta = 0.1102 * (120 - 8.7);
  const filters = new Float32Array(numPhases * 2 * half);
  for (let phase = 0; phase < numPhases; phase++) {
    for (let tap = 0; tap < 2 * half; tap++) {
      const x = tap - half + 1 - phase / numPhases;
      const wave = x === 0 ? 1 : Math.sin(Math.PI * cutoff * x) / (Math.PI * cutoff * x);
      const window = Math.abs(x) < half ? bessel(beta * Math.sqrt(1 - (x / half) ** 2)) / bessel(beta) : 0;
      filters[phase * 2 * half + tap] = cutoff * wave * window;
    }
  }
  const resampled = new Float32Array(Math.floor((samples.length * to) / from + 0.5));
  for (let index = 0; index < resampled.length; index++) {
    const offset = (index * step) % numPhases * 2 * half;
    const first = Math.floor((index * step) / numPhases) - half + 1;
    const end = Math.min(2 * half, samples.length - first);
    let sum = 0;
    for (let tap = Math.max(0, -first); tap < end; tap++) sum += filters[offset + tap] * samples[first + tap];
    resampled[index] = sum;
  }
  return resampled;
}

// Modified Bessel function of order 0.
function bessel(x) {
  let term = 1, sum = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

// Mean of the channels, or Refused; with what makes a score doubtful.
export function gate(channels, samplingRate) {
  const length = channels[0].length;
  const mono = new Float32Array(length);
  const energies = channels.map(() => 0);
  let lowest = Infinity, highest = -Infinity, monoEnergy = 0;
  for (let i = 0; i < length; i++) {
    let sum = 0;
    for (let c = 0; c < channels.length; c++) {
      const sample = channels[c][i];
      sum += sample;
      energies[c] += sample * sample;
    }
    if (!Number.isFinite(sum)) throw new Refused("not_finite", `The sample at ${(i / samplingRate).toFixed(3)} s is no number.`);
    mono[i] = sum / channels.length;
    lowest = Math.min(lowest, mono[i]);
    highest = Math.max(highest, mono[i]);
    monoEnergy += mono[i] * mono[i];
  }
  const seconds = length / samplingRate;
  if (seconds <= MIN_SECONDS) {
    throw new Refused("too_short", `Expected more than ${MIN_SECONDS} s of audio, got ${seconds.toFixed(3)} s.`);
  }
  const carrying = energies.filter((energy) => energy > 0);
  const silent = highest - lowest < ONE_STEP;
  if (carrying.length === 0 || (silent && channels.length === 1)) throw new Refused("silent", "All samples are digital silence.");
  const meanEnergy = carrying.reduce((sum, energy) => sum + energy, 0) / carrying.length;
  if (carrying.length > 1 && 10 * Math.log10(Math.max(monoEnergy, 1e-30) / meanEnergy) < CANCELLED_DB) {
    throw new Refused("channels_cancel", "The channels cancel when averaged (opposite phase).");
  }
  if (silent) throw new Refused("silent", "All samples are digital silence.");
  return { mono, seconds, warnings: seconds < SHORT_SECONDS ? ["short"] : [] };
}

// DistilledSQA.window_starts in mode "published": equally spaced, the first at 0, the last at the end.
export function windowStarts(numSamples, windowSamples, hopSamples) {
  const over = Math.max(0, numSamples - windowSamples);
  const last = Math.ceil(over / hopSamples);
  const starts = Array.from({ length: last + 1 }, (_, index) => Math.trunc(index * (1 / last) * over));
  starts[0] = 0;
  starts[last] = over;
  return starts;
}

// Scores by name, the mean over windows; `progress(done, all)` after each window.
export async function score({ config, session }, mono, progress = () => {}) {
  const length = config.window_samples;
  const starts = windowStarts(mono.length, length, config.hop_samples);
  const names = Object.keys(config.id2label).map((key) => config.id2label[key]);
  const sums = names.map(() => 0);
  for (let index = 0; index < starts.length; index++) {
    const window = new Float32Array(length); // zeros fill up what is shorter
    window.set(mono.subarray(starts[index], starts[index] + length));
    const { logits } = await session.run({ input_values: new ort.Tensor("float32", window, [1, length]) });
    logits.data.forEach((value, column) => (sums[column] += value));
    progress(index + 1, starts.length);
    await new Promise((resolve) => setTimeout(resolve)); // the page stays alive
  }
  return Object.fromEntries(names.map((name, column) => [name, sums[column] / starts.length]));
}
