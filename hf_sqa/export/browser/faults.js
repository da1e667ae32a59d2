// Where a recording is unlike the rest of it, and how: FaultFinder of hf_sqa/blocks/faults.py.
import { stretchesOf } from "./course.js";
import { Buffer } from "./local.js";
import { Resampler, run } from "./score.js";

// Feed samples at the model's rate in portions of any size; at the end come faults `{start, end, kind}`, in order.
export class FaultFinder {
  constructor({ config, facts, faults }) {
    this.settings = facts.faults;
    this.session = faults;
    this.resampler = new Resampler(config.sampling_rate, this.settings.sampling_rate);
    this.buffer = new Buffer();
    this.decided = [];
  }

  async feed(samples, last = false) {
    const { segment_steps, edge_steps, step_samples } = this.settings, { buffer } = this;
    buffer.push(this.resampler.feed(samples, last));
    while (buffer.samples.length >= segment_steps * step_samples) {
      await this.decide(segment_steps, segment_steps - edge_steps);
      buffer.forget(buffer.origin + (segment_steps - 2 * edge_steps) * step_samples);
    }
  }

  async close() {
    await this.feed(new Float32Array(0), true);
    const steps = Math.floor(this.buffer.samples.length / this.settings.step_samples);
    if (steps) await this.decide(steps, steps);
    return stretchesOf(this.decided, this.settings);
  }

  // Looks at the first steps that are waiting; those at the edges have been decided, or are heard once more.
  async decide(steps, end) {
    const { edge_steps, step_samples, kinds } = this.settings, width = kinds.length + 1;
    const samples = this.buffer.samples.slice(0, steps * step_samples);
    const { data } = await run(this.session, samples, "decided", [steps, step_samples]);
    for (let step = this.decided.length ? edge_steps : 0; step < end; step++) {
      this.decided.push([...data.slice(step * width, (step + 1) * width)]);
    }
  }
}
