// The waveform and the spectrogram of what an analyser hears, drawn from left to right and then over again.

const TOP_HZ = 8000;
const SECONDS = 6; // width of the canvas

export class Plots {
  constructor(wave, spectrum) {
    this.canvases = [wave, spectrum];
    this.running = 0;
    this.clear();
  }

  clear() {
    for (const canvas of this.canvases) {
      canvas.width = Math.max(320, Math.round(canvas.clientWidth * devicePixelRatio));
      const context = canvas.getContext("2d");
      context.fillStyle = "#120d0a";
      context.fillRect(0, 0, canvas.width, canvas.height);
    }
    this.at = 0;
  }

  // Draw from now until the next call of `stop`.
  start(analyser, rate) {
    this.clear();
    const run = ++this.running;
    const time = new Float32Array(analyser.fftSize);
    const levels = new Uint8Array(analyser.frequencyBinCount);
    const bins = Math.min(levels.length, Math.round((levels.length * TOP_HZ) / (rate / 2)));
    let last = performance.now();
    const draw = (now) => {
      if (run !== this.running) return;
      const width = this.canvases[0].width;
      const step = Math.max(1, Math.round(((now - last) / 1000 / SECONDS) * width));
      last = now;
      analyser.getFloatTimeDomainData(time);
      analyser.getByteFrequencyData(levels);
      this.#wave(time, step);
      this.#spectrum(levels, bins, step);
      this.at = (this.at + step) % width;
      requestAnimationFrame(draw);
    };
    requestAnimationFrame(draw);
  }

  stop() { this.running += 1; }

  #wave(time, step) {
    const canvas = this.canvases[0];
    const context = canvas.getContext("2d");
    const middle = canvas.height / 2;
    context.fillStyle = "#120d0a";
    context.fillRect(this.at, 0, step + 6, canvas.height);
    context.fillStyle = "#fb923c";
    const share = Math.max(1, Math.floor(time.length / step));
    for (let column = 0; column < step; column += 1) {
      let peak = 0;
      for (let index = column * share; index < Math.min((column + 1) * share, time.length); index += 1) {
        peak = Math.max(peak, Math.abs(time[index]));
      }
      const height = Math.max(1, Math.min(1, peak * 1.6) * canvas.height);
      context.fillRect(this.at + column, middle - height / 2, 1, height);
    }
  }

  #spectrum(levels, bins, step) {
    const canvas = this.canvases[1];
    const context = canvas.getContext("2d");
    const image = context.createImageData(1, canvas.height);
    for (let row = 0; row < canvas.height; row += 1) {
      const level = levels[Math.floor(((canvas.height - 1 - row) / canvas.height) * bins)] / 255;
      image.data.set([...colour(level), 255], 4 * row);
    }
    for (let column = 0; column < step; column += 1) context.putImageData(image, this.at + column, 0);
  }
}

// From black over red and orange to white.
function colour(level) {
  return [18 + 237 * Math.min(1, level * 1.6), 13 + 235 * Math.max(0, level * 1.5 - 0.35), 10 + 230 * Math.max(0, level * 2 - 1.1)];
}
