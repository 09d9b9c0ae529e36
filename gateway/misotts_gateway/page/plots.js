// The waveform and the spectrogram of what has been played, drawn from left to right and then over again.

import { magnitudes } from "./fft.js";

const TOP_HZ = 8000; // of the spectrogram
const SECONDS = 6; // width of the canvases
const WINDOW = 512; // samples of a column of the spectrogram
const BACK = "#120d0a";

export class Plots {
  constructor(wave, spectrum) {
    this.wave = wave;
    this.spectrum = spectrum;
    this.running = 0;
    this.clear();
  }

  clear() {
    for (const canvas of [this.wave, this.spectrum]) {
      canvas.width = Math.max(320, Math.round(canvas.clientWidth * devicePixelRatio));
      const context = canvas.getContext("2d");
      context.fillStyle = BACK;
      context.fillRect(0, 0, canvas.width, canvas.height);
    }
  }

  // Draw what `player` plays, until `stop` is called.
  start(player) {
    this.clear();
    const run = ++this.running;
    const perColumn = Math.max(1, Math.round((player.rate * SECONDS) / this.wave.width));
    let column = 0;
    const draw = () => {
      if (run !== this.running) return;
      for (; (column + 1) * perColumn <= player.heard; column += 1) this.#column(player, column, perColumn);
      requestAnimationFrame(draw);
    };
    requestAnimationFrame(draw);
  }

  stop() { this.running += 1; }

  #column(player, column, perColumn) {
    const x = column % this.wave.width;
    const middle = column * perColumn + perColumn / 2;
    const samples = player.slice(Math.round(middle - WINDOW / 2), WINDOW);
    const near = samples.subarray((WINDOW - perColumn) / 2, (WINDOW + perColumn) / 2);
    const peak = near.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    const context = this.wave.getContext("2d");
    const height = Math.max(1, Math.min(1, peak * 1.3) * this.wave.height);
    context.fillStyle = BACK;
    context.fillRect(x, 0, 8, this.wave.height);
    context.fillStyle = "#fb923c";
    context.fillRect(x, (this.wave.height - height) / 2, 1, height);
    this.#spectrumColumn(magnitudes(samples), x, (WINDOW * TOP_HZ) / player.rate);
  }

  // `bins`: number of the magnitudes from 0 to TOP_HZ.
  #spectrumColumn(levels, x, bins) {
    const { height } = this.spectrum;
    const context = this.spectrum.getContext("2d");
    const image = context.createImageData(1, height);
    for (let row = 0; row < height; row += 1) {
      const magnitude = levels[Math.floor(((height - 1 - row) / height) * bins)] ?? 0;
      const level = Math.max(0, Math.min(1, 1 + Math.log10(magnitude / 40 + 1e-9) / 3.5)); // 70 dB from black to white
      image.data.set([...colour(level), 255], 4 * row);
    }
    context.putImageData(image, x, 0);
  }
}

// From black over red and orange to white.
function colour(level) {
  return [18 + 237 * Math.min(1, level * 1.5), 13 + 235 * Math.max(0, level * 1.5 - 0.45), 10 + 230 * Math.max(0, level * 2.4 - 1.4)];
}
