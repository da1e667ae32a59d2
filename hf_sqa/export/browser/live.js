// Quality while the sound is still coming, as hf_sqa.QualityMeter: memory does not grow with time.
import { rowsOf, worstOf } from "./course.js";
import { LocalMeter } from "./local.js";
import { Resampler } from "./score.js";

export const SHOWN_SECONDS = 60;
const COLUMN_SECONDS = 0.05, MOST_BEHIND_SECONDS = 15;
// The worst stretch is that of the last points so many: four hours of them.
const MOST_POINTS = 28800;

// Samples at any rate to points with `running`, the mean of each score so far.
export class LiveMeter {
  constructor(model, samplingRate) {
    this.resampler = new Resampler(samplingRate, model.config.sampling_rate);
    this.meter = new LocalMeter(model);
    this.edgeShare = model.facts.local.edge_share;
    this.rows = [];
    this.worst = null; // the stretch around the lowest point so far, by the first score
    this.sums = this.meter.names.map(() => 0);
    this.count = 0;
  }

  async feed(samples) { return this.counted(await this.meter.feed(this.resampler.feed(samples))); }

  async close() {
    const left = await this.meter.feed(this.resampler.feed(new Float32Array(0), true));
    return this.counted([...left, ...(await this.meter.close())]);
  }

  // Means so far by name, or null before anybody has spoken.
  get running() {
    return this.count ? Object.fromEntries(this.meter.names.map((name, column) => [name, this.sums[column] / this.count])) : null;
  }

  counted(points) {
    const rows = rowsOf(points, this.meter.names[0]);
    if (rows.length) {
      this.rows = [...this.rows, ...rows].slice(-MOST_POINTS);
      this.worst = worstOf(this.rows, this.edgeShare);
    }
    return points.map((point) => {
      if (point.scores) {
        this.meter.names.forEach((name, column) => (this.sums[column] += point.scores[name]));
        this.count++;
      }
      return { ...point, running: this.running };
    });
  }
}

// Why there is no microphone here, in a sentence, or "".
export function whyNoMicrophone() {
  if (!globalThis.isSecureContext || !navigator.mediaDevices?.getUserMedia) {
    return "The microphone needs a page from https or from localhost; choose a file instead.";
  }
  return globalThis.AudioWorkletNode ? "" : "This browser has no AudioWorklet, which the microphone needs; choose a file instead.";
}

const REFUSALS = {
  NotAllowedError: "The browser was not allowed to use the microphone; allow it, or choose a file.",
  NotFoundError: "There is no microphone; plug one in, or choose a file.",
  NotReadableError: "Another program has the microphone; end it there, or choose a file.",
};

// Listens until `stop` of what is returned is called. `heard({seconds, envelope, points, running, worst})` comes with every portion, with the last
// minute of the sound and of the points; `failed(sentence)` if it cannot go on.
export async function listen(model, heard, failed) {
  let stream;
  try {
    // The sound as it is: what browsers do to it for calls is not to be judged.
    const asItIs = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: asItIs });
  } catch (error) {
    throw new Error(REFUSALS[error.name] ?? `The microphone cannot be used (${error.message}); choose a file instead.`);
  }
  const context = new AudioContext(), meter = new LiveMeter(model, context.sampleRate);
  const stop = () => {
    stream.getTracks().forEach((track) => track.stop());
    return context.state === "closed" ? undefined : context.close();
  };
  try {
    await context.audioWorklet.addModule(new URL("./microphone.js", import.meta.url));
    const node = new AudioWorkletNode(context, "microphone", { numberOfInputs: 1, numberOfOutputs: 0 });
    const past = new Past(context.sampleRate);
    let working = Promise.resolve(), behind = 0;
    const fail = (error) => { stop(); failed(error.message); };
    node.port.onmessage = ({ data }) => {
      behind += data.length;
      if (behind > MOST_BEHIND_SECONDS * context.sampleRate) {
        node.port.onmessage = null;
        fail(new Error("This machine is too slow for this model: export a smaller one, such as distilled-sqa-xs."));
        return;
      }
      working = working.then(async () => {
        past.add(data, await meter.feed(data));
        behind -= data.length;
        heard({ ...past.shown, running: meter.running, worst: meter.worst });
      }).catch(fail);
    };
    context.createMediaStreamSource(stream).connect(node);
  } catch (error) {
    await stop();
    throw error;
  }
  return { stop, samplingRate: context.sampleRate };
}

// The last minute: lowest and highest sample of every 50 ms, and points.
class Past {
  constructor(samplingRate) {
    this.column = Math.round(COLUMN_SECONDS * samplingRate);
    this.rate = samplingRate;
    this.numSamples = 0;
    this.columns = [];
    this.points = [];
  }

  add(samples, points) {
    samples.forEach((sample, index) => {
      if ((this.numSamples + index) % this.column === 0) {
        this.columns.push({ at: (this.numSamples + index) / this.rate, low: sample, high: sample });
      }
      const last = this.columns.at(-1);
      last.low = Math.min(last.low, sample);
      last.high = Math.max(last.high, sample);
    });
    this.numSamples += samples.length;
    const since = this.numSamples / this.rate - SHOWN_SECONDS;
    this.columns = this.columns.filter(({ at }) => at >= since);
    this.points = [...this.points, ...points].filter(({ end }) => end > since);
  }

  get shown() {
    return { seconds: this.numSamples / this.rate, envelope: this.columns, points: this.points };
  }
}
