// Runs in the audio thread: hands the mean of the channels over in portions of 2048 samples.
registerProcessor("microphone", class extends AudioWorkletProcessor {
  portion = new Float32Array(2048);
  filled = 0;

  process([channels]) {
    const length = channels.length ? channels[0].length : 0;
    for (let index = 0; index < length; index++) {
      this.portion[this.filled++] = channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length;
      if (this.filled < this.portion.length) continue;
      this.port.postMessage(this.portion);
      this.filled = 0;
    }
    return true;
  }
});
