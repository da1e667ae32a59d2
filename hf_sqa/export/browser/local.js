// Quality from half second to half second, as the samples come: hf_sqa/blocks/local_quality.py and local_steps.py.
// The numbers of both are in page.json.
import { gate, Refused, run } from "./score.js";

const { abs, ceil, floor, log2, log10, max, min, round } = Math;

// Feed samples at the model's rate in portions of any size; points `{start, end, scores}` come as soon as they are known, `scores`
// by name, or null where nobody speaks.
export class LocalMeter {
  constructor(model) {
    const { config, facts } = model;
    this.settings = facts.local;
    this.rate = config.sampling_rate;
    this.names = Object.values(config.id2label);
    this.source = facts.local.head ? new Head(model) : new Pieces(model);
    this.level = facts.local.head ? new Level(model) : null;
    this.activity = new Activity(this.settings, this.rate);
    this.numSamples = this.nextPoint = 0;
  }

  async feed(samples) {
    const points = [], slice = round(this.settings.slice_seconds * this.rate);
    for (let start = 0; start < samples.length; start += slice) {
      const piece = samples.subarray(start, start + slice);
      this.numSamples += piece.length;
      this.activity.feed(piece);
      this.level?.hear(piece);
      await this.source.feed(piece);
      points.push(...(await this.points(false)));
    }
    return points;
  }

  // The points at the end, after the last samples.
  async close() {
    await this.source.end();
    return this.points(true);
  }

  async points(last) {
    const { hop_seconds: hop, half_seconds, least_active_share } = this.settings;
    const half = round(half_seconds * this.rate), known = last ? this.numSamples : this.source.known(), points = [];
    for (; ; this.nextPoint++) {
      const start = round(this.nextPoint * hop * this.rate), full = round((this.nextPoint + 1) * hop * this.rate);
      const end = last ? min(full, this.numSamples) : full, middle = floor((start + end) / 2);
      if (start >= end || (middle + half > known && !last)) break;
      const first = max(0, middle - half), stop = min(middle + half, this.numSamples);
      const speaks = this.activity.share(first, stop) >= least_active_share;
      const values = speaks ? await this.source.scores(first, stop) : null;
      const scores = values && Object.fromEntries(this.names.map((name, column) => [name, values[column]]));
      const point = { start: start / this.rate, end: end / this.rate, scores };
      if (!this.level) points.push(point);
      else points.push(...(await this.level.take(point, scores && values[0], start, middle + half, this.numSamples)));
      this.source.forget(middle - half);
      this.activity.forget(middle - half);
    }
    if (this.level && !this.level.isKnown && (last || known >= this.level.end)) {
      await this.level.measure();
      points.push(...this.level.laid());
    }
    return points;
  }
}

// CurveLevel and the points that wait for it: the curve of a head lies where the model itself scores.
class Level {
  constructor({ session, facts }) {
    this.settings = facts.local.head.level;
    this.session = session;
    this.buffer = new Buffer();
    this.start = this.sum = this.weight = 0;
    this.values = []; // of the points in the window
    this.waiting = [];
    this.isKnown = false;
  }

  get end() { return this.start + this.settings.window; }

  hear(samples) {
    this.buffer.push(samples);
    this.buffer.forget(this.start);
  }

  // Take a point that starts at a sample and needs samples up to another; return those whose level is known.
  async take(point, value, start, needed, numSamples) {
    const points = [];
    while (min(needed, numSamples) > this.end) {
      await this.measure();
      points.push(...this.laid());
    }
    if (value !== null && start >= this.start && needed <= this.end) this.values.push(value);
    this.waiting.push(point);
    if (this.isKnown) points.push(...this.laid());
    return points;
  }

  async measure() {
    const { window: length, every_windows, doubt: [base, slope] } = this.settings, { values } = this;
    if (values.length) {
      const window = new Float32Array(length), heard = this.buffer.slice(this.start, this.end);
      window.set(heard);
      const [score] = (await run(this.session, window, "logits")).data;
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      const doubt = base + (slope * values.reduce((sum, value) => sum + (value - mean) ** 2, 0)) / values.length;
      this.sum += (score - mean) / doubt;
      this.weight += 1 / doubt;
    }
    this.start += (values.length ? every_windows : 1) * length;
    this.buffer.forget(this.start);
    this.values = [];
    this.isKnown = true;
  }

  laid() {
    const shift = this.sum / (1 + this.weight), [least, most] = this.settings.ends, points = this.waiting;
    this.waiting = [];
    const moved = (scores) => Object.fromEntries(Object.entries(scores).map(([name, value]) => [name, min(most, max(least, value + shift))]));
    return points.map((point) => (point.scores ? { ...point, scores: moved(point.scores) } : point));
  }
}

// Samples from `origin` on.
export class Buffer {
  constructor() {
    this.samples = new Float32Array(0);
    this.origin = 0;
  }

  get end() { return this.origin + this.samples.length; }

  push(more) {
    const joined = new Float32Array(this.samples.length + more.length);
    joined.set(this.samples);
    joined.set(more, this.samples.length);
    this.samples = joined;
  }

  slice(start, end) { return this.samples.slice(start - this.origin, end - this.origin); }

  forget(sample) {
    const unused = min(max(0, sample - this.origin), this.samples.length);
    this.samples = this.samples.slice(unused);
    this.origin += unused;
  }
}

// FrameScorer: a head on the model's first layers, every sample through the convolutions once.
class Head {
  constructor({ facts, local }) {
    this.settings = facts.local.head;
    this.session = local;
    this.buffer = new Buffer();
    this.nextChunk = this.firstStep = 0;
    this.hasWindow = false;
    this.peaks = [];
    this.steps = []; // [score, weight]
  }

  feed(samples) {
    this.buffer.push(samples);
    return this.runChunks(false);
  }

  end() { return this.runChunks(true); }

  known() { return (this.firstStep + this.steps.length) * this.settings.step; }

  async runChunks(last) {
    const { chunk, margin, peak_chunks, level } = this.settings, { buffer } = this, ready = [];
    if (!this.hasWindow) {
      if (!buffer.end || (buffer.end < level.window && !last)) return;
      await this.runWindow(min(buffer.end, level.window));
    }
    for (let at = this.nextChunk * chunk; at + chunk + margin <= buffer.end || (last && at < buffer.end); at = this.nextChunk * chunk) {
      this.peaks.push(buffer.slice(at, min(at + chunk + margin, buffer.end)).reduce((peak, sample) => max(peak, abs(sample)), 0));
      this.peaks = this.peaks.slice(-peak_chunks);
      if (at >= level.window) ready.push({ number: this.nextChunk, peak: this.rounded(max(...this.peaks)) });
      this.nextChunk++;
    }
    while (ready.length) { // those with one peak together
      const together = ready.findIndex(({ peak }) => peak !== ready[0].peak);
      const group = ready.splice(0, together < 0 ? ready.length : together);
      await this.runGroup(group[0].number * chunk, min((group.at(-1).number + 1) * chunk, buffer.end), group[0].peak);
    }
    buffer.forget(this.nextChunk * chunk - margin);
  }

  // The next of the peaks that are told apart. Browsers divide 16 bits by 32767: a peak of one half must not count as more.
  rounded(peak) {
    const { peaks_per_octave: number } = this.settings;
    return peak > 0 ? 2 ** (ceil(log2(peak) * number - 1e-4) / number) : 0;
  }

  // The first window as the model hears it.
  async runWindow(stop) {
    const heard = this.buffer.slice(0, stop), peak = heard.reduce((most, sample) => max(most, abs(sample)), 0);
    const samples = new Float32Array(this.settings.level.window); // zeros fill it up
    heard.forEach((sample, index) => (samples[index] = sample / (peak + 1e-8)));
    await this.addSteps(samples, 0, ceil(stop / this.settings.step));
    this.hasWindow = true;
  }

  async addSteps(samples, first, count) {
    const { data, dims } = await run(this.session, samples, "steps");
    for (let index = first; index < first + count; index++) this.steps.push([data[index], data[dims[1] + index]]);
  }

  async runGroup(start, stop, peak) {
    const { step, margin } = this.settings, low = max(0, start - margin), high = min(stop + margin, this.buffer.end);
    const samples = new Float32Array(ceil((high - low) / step) * step); // zeros fill up the last step
    this.buffer.slice(low, high).forEach((sample, index) => (samples[index] = sample / (peak + 1e-8)));
    await this.addSteps(samples, (start - low) / step, ceil((stop - start) / step));
  }

  scores(first, end) {
    const { step } = this.settings, nearest = (sample) => ceil((sample - step / 2) / step) - this.firstStep;
    const begin = nearest(first), chosen = this.steps.slice(max(0, begin), max(0, nearest(end), begin + 1));
    if (!chosen.length) return null;
    const weight = chosen.reduce((sum, [, weight]) => sum + weight, 0);
    return [chosen.reduce((sum, [score, weight]) => sum + score * weight, 0) / weight];
  }

  forget(sample) {
    const count = min(this.steps.length, max(0, floor((sample - this.settings.step) / this.settings.step) - this.firstStep));
    this.steps.splice(0, count);
    this.firstStep += count;
  }
}

// PieceScorer: pieces of two seconds, each heard again and again until the model's window is full.
class Pieces {
  constructor(model) {
    this.model = model;
    this.buffer = new Buffer();
  }

  async feed(samples) { this.buffer.push(samples); }
  async end() {}
  known() { return this.buffer.end; }
  forget(sample) { this.buffer.forget(sample); }

  async scores(first, end) {
    const { config, session } = this.model, piece = this.buffer.slice(first, end);
    const window = Float32Array.from({ length: config.window_samples }, (_, index) => piece[index % piece.length]);
    try {
      gate([window], config.sampling_rate);
    } catch (error) {
      if (error instanceof Refused) return null; // it holds nothing to judge
      throw error;
    }
    return [...(await run(session, window, "logits")).data];
  }
}

// Which stretches of 20 ms are active, by their level.
class Activity {
  constructor(settings, rate) {
    this.settings = settings;
    this.step = max(1, round(settings.level_seconds * rate));
    this.rest = new Float32Array(0);
    this.active = [];
    this.first = 0;
    this.maximum = -Infinity;
  }

  feed(samples) {
    const { floor_dbfs, active_range_db, maximum_falls_db_per_second, level_seconds } = this.settings, { step } = this;
    const joined = new Float32Array(this.rest.length + samples.length);
    joined.set(this.rest);
    joined.set(samples, this.rest.length);
    const usable = joined.length - (joined.length % step);
    for (let start = 0; start < usable; start += step) {
      const frame = joined.subarray(start, start + step), mean = frame.reduce((sum, sample) => sum + sample, 0) / step;
      const level = 10 * log10(frame.reduce((sum, sample) => sum + (sample - mean) ** 2, 0) / step + 1e-12);
      this.maximum = max(level, this.maximum - maximum_falls_db_per_second * level_seconds);
      this.active.push(level > max(floor_dbfs, this.maximum - active_range_db));
    }
    this.rest = joined.slice(usable);
  }

  share(first, end) {
    const chosen = this.active.slice(max(0, floor(first / this.step) - this.first), max(0, floor(end / this.step) - this.first));
    return chosen.length ? chosen.filter(Boolean).length / chosen.length : 0;
  }

  forget(sample) {
    const count = min(this.active.length, max(0, floor(sample / this.step) - this.first));
    this.active.splice(0, count);
    this.first += count;
  }
}
