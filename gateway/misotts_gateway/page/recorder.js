// Records a microphone as samples: browsers' own recorders write WebM or MP4, which the server does not read.

export class Recorder {
  // Ask for the microphone and begin to record. It throws where there is none or the user refuses.
  static async start() {
    if (!navigator.mediaDevices) throw new Error("a microphone needs https, or a server on localhost");
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    const context = new AudioContext();
    await context.audioWorklet.addModule(new URL("tap.js", import.meta.url));
    return new Recorder(stream, context);
  }

  constructor(stream, context) {
    this.stream = stream;
    this.context = context;
    this.pieces = [];
    const tap = new AudioWorkletNode(context, "tap");
    tap.port.onmessage = ({ data }) => this.pieces.push(data);
    context.createMediaStreamSource(stream).connect(tap);
    tap.connect(context.destination); // it plays silence; without a listener it would not run
  }

  get seconds() { return this.pieces.reduce((sum, piece) => sum + piece.length, 0) / this.context.sampleRate; }

  // Return the samples and their rate.
  async stop() {
    this.stream.getTracks().forEach((track) => track.stop());
    const rate = this.context.sampleRate;
    await this.context.close();
    const samples = new Float32Array(this.pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of this.pieces) {
      samples.set(piece, at);
      at += piece.length;
    }
    return { samples, rate };
  }
}
