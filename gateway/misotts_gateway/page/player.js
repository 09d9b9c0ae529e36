// Plays 16-bit samples while they arrive, and measures what the listener gets.

const LEAD_S = 0.06; // between the arrival of the first samples and their playing: the browser's own buffer

export class Player {
  // `rate` in Hz; samples beyond `level` are audible. Construct it in the handler of a click: browsers allow sound only then.
  constructor(rate, level) {
    this.rate = rate;
    this.level = level;
    this.context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    this.pieces = []; // { from: number of the first sample, at: its time in the context, samples, source }
    this.samples = 0; // number of samples that have arrived
    this.next = 0; // time of the context at which the next samples play
    this.silenceS = null; // leading silence; null while nothing audible has arrived
    this.gaps = 0;
    this.gapS = 0;
  }

  // Play float samples of -1..1 after those that have come before.
  add(samples) {
    if (!samples.length) return;
    const now = this.context.currentTime;
    if (!this.samples) this.next = now + LEAD_S;
    else if (this.next < now) {
      this.gaps += 1;
      this.gapS += now - this.next;
      this.next = now;
    }
    const buffer = this.context.createBuffer(1, samples.length, this.rate);
    buffer.copyToChannel(samples, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    source.start(this.next);
    this.pieces.push({ from: this.samples, at: this.next, samples, source });
    this.next += samples.length / this.rate;
    if (this.silenceS === null) {
      const first = samples.findIndex((sample) => Math.abs(sample) > this.level);
      if (first >= 0) this.silenceS = (this.samples + first) / this.rate;
    }
    this.samples += samples.length;
  }

  get seconds() { return this.samples / this.rate; }

  // Share of the listening time in which there was audio to play.
  get continuity() { return this.samples ? this.seconds / (this.seconds + this.gapS) : 0; }

  // Number of samples that have been heard by now.
  get heard() {
    const now = this.context.currentTime;
    const piece = this.pieces.findLast(({ at }) => at <= now);
    return piece ? piece.from + Math.min(piece.samples.length, Math.floor((now - piece.at) * this.rate)) : 0;
  }

  // Return `count` samples from number `from` on, with zeros where there are none.
  slice(from, count) {
    const found = new Float32Array(count);
    for (const piece of this.pieces) {
      const start = Math.max(from, piece.from);
      const end = Math.min(from + count, piece.from + piece.samples.length);
      if (start < end) found.set(piece.samples.subarray(start - piece.from, end - piece.from), start - from);
    }
    return found;
  }

  // Wait until everything has been played.
  async played() {
    while (this.context.state !== "closed" && this.context.currentTime < this.next) {
      await new Promise((done) => setTimeout(done, 30));
    }
  }

  async close() {
    for (const { source } of this.pieces) source.stop();
    if (this.context.state !== "closed") await this.context.close();
  }
}

// Turns the bytes of a body into samples; a sample may be divided between two pieces.
export class Samples {
  constructor(header) {
    this.skip = header; // bytes before the samples
    this.rest = new Uint8Array(0);
  }

  take(bytes) {
    const skipped = Math.min(this.skip, bytes.length);
    this.skip -= skipped;
    const joined = new Uint8Array(this.rest.length + bytes.length - skipped);
    joined.set(this.rest);
    joined.set(bytes.subarray(skipped), this.rest.length);
    const whole = joined.length - (joined.length % 2);
    this.rest = joined.slice(whole);
    const view = new DataView(joined.buffer, 0, whole);
    return Float32Array.from({ length: whole / 2 }, (_, index) => view.getInt16(2 * index, true) / 32768);
  }
}
