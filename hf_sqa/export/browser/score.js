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
  const facts = await (await fetched(folder + "page.json")).json();
  const { head } = facts.local;
  const [session, local, faults] = [
    await started(folder + "model.onnx"), head && (await started(folder + head.graph)), await started(folder + facts.faults.graph),
  ];
  return { config, facts, session, local, faults };
}

async function started(address) {
  return ort.InferenceSession.create(await (await fetched(address)).arrayBuffer(), { executionProviders: ["wasm"] });
}

// One output of a graph for samples, which are one row if nothing else is said.
export async function run(session, samples, output, shape = [1, samples.length]) {
  const outputs = await session.run({ input_values: new ort.Tensor("float32", samples, shape) });
  return outputs[output];
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
// Feed samples in portions of any size; what is known comes back, and the rest at the last.
export class Resampler {
  constructor(from, to) {
    const divisor = (function common(a, b) { return b ? common(b, a % b) : a; })(from, to);
    this.numPhases = to / divisor;
    this.step = from / divisor;
    this.isIdle = from === to;
    const edge = Math.min(from, to) / 2, flat = 0.913 * edge;
    const cutoff = (flat + edge) / from; // twice the middle of the slope, in cycles a sample
    const half = Math.ceil(112 / (2.285 * 2 * Math.PI * ((edge - flat) / from)) / 2);
    const beta = 0.1102 * (120 - 8.7);
    this.numTaps = 2 * half;
    this.filters = new Float32Array(this.isIdle ? 0 : this.numPhases * this.numTaps);
    for (let index = 0; index < this.filters.length; index++) {
      const x = (index % this.numTaps) - half + 1 - Math.floor(index / this.numTaps) / this.numPhases;
      const wave = x === 0 ? 1 : Math.sin(Math.PI * cutoff * x) / (Math.PI * cutoff * x);
      const window = Math.abs(x) < half ? bessel(beta * Math.sqrt(1 - (x / half) ** 2)) / bessel(beta) : 0;
      this.filters[index] = cutoff * wave * window;
    }
    this.waiting = new Float32Array(0);
    this.origin = this.next = 0; // position of the first waiting sample, number of the next one that comes back
  }

  feed(more, last = false) {
    if (this.isIdle) return more;
    const { numPhases, step, numTaps, filters } = this;
    const samples = new Float32Array(this.waiting.length + more.length);
    samples.set(this.waiting);
    samples.set(more, this.waiting.length);
    const end = this.origin + samples.length, first = (index) => Math.floor((index * step) / numPhases) - numTaps / 2 + 1;
    let stop = this.next;
    if (last) stop = Math.floor((end * numPhases) / step + 0.5);
    else while (first(stop) + numTaps <= end) stop++;
    const resampled = new Float32Array(stop - this.next);
    for (let index = this.next; index < stop; index++) {
      const offset = ((index * step) % numPhases) * numTaps, at = first(index) - this.origin;
      const numKnown = Math.min(numTaps, samples.length - at);
      let sum = 0;
      for (let tap = Math.max(0, -at); tap < numKnown; tap++) sum += filters[offset + tap] * samples[at + tap];
      resampled[index - this.next] = sum;
    }
    this.next = stop;
    const unused = Math.min(samples.length, Math.max(0, first(stop) - this.origin));
    this.waiting = samples.slice(unused);
    this.origin += unused;
    return resampled;
  }
}

// A whole recording at another rate.
export const resample = (samples, from, to) => new Resampler(from, to).feed(samples, true);

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
    (await run(session, window, "logits")).data.forEach((value, column) => (sums[column] += value));
    progress(index + 1, starts.length);
    await new Promise((resolve) => setTimeout(resolve)); // the page stays alive
  }
  const scores = sums.map((sum) => sum / starts.length);
  if (!scores.every(Number.isFinite)) throw new Refused("score_not_finite", `The graph returned ${scores}; export it again.`);
  return Object.fromEntries(names.map((name, column) => [name, scores[column]]));
}

// Ends of the interval of a score, or null where the checkpoint has no calibration.
export function intervalOf({ facts }, name, value) {
  const calibration = facts.intervals[name];
  if (!calibration) return null;
  const { levels, half_widths, ends, coverage } = calibration;
  const above = levels.findIndex((level) => level >= value), at = above < 0 ? levels.length - 1 : above;
  const share = at === 0 || above < 0 ? 1 : (value - levels[at - 1]) / (levels[at] - levels[at - 1]);
  const half = at === 0 ? half_widths[0] : half_widths[at - 1] + share * (half_widths[at] - half_widths[at - 1]);
  return { low: Math.min(value, Math.max(value - half, ends[0])), high: Math.max(value, Math.min(value + half, ends[1])), coverage };
}
