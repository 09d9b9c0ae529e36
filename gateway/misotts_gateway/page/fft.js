// The spectrum of a piece of audio.

// Return the magnitudes of the frequencies from 0 to half the rate; the number of samples is a power of two.
export function magnitudes(samples) {
  const size = samples.length;
  const real = Float32Array.from(samples, (sample, index) => sample * (0.5 - 0.5 * Math.cos((2 * Math.PI * index) / size)));
  const imaginary = new Float32Array(size);
  for (let index = 1, mirror = 0; index < size; index += 1) {
    let bit = size >> 1;
    for (; mirror & bit; bit >>= 1) mirror ^= bit;
    mirror ^= bit;
    if (index < mirror) [real[index], real[mirror]] = [real[mirror], real[index]];
  }
  for (let length = 2; length <= size; length *= 2) {
    for (let start = 0; start < size; start += length) {
      for (let index = 0; index < length / 2; index += 1) {
        const [even, odd] = [start + index, start + index + length / 2];
        const angle = (-2 * Math.PI * index) / length;
        const [cosine, sine] = [Math.cos(angle), Math.sin(angle)];
        const r = real[odd] * cosine - imaginary[odd] * sine;
        const i = real[odd] * sine + imaginary[odd] * cosine;
        [real[odd], imaginary[odd]] = [real[even] - r, imaginary[even] - i];
        [real[even], imaginary[even]] = [real[even] + r, imaginary[even] + i];
      }
    }
  }
  return Float32Array.from({ length: size / 2 }, (_, index) => Math.hypot(real[index], imaginary[index]));
}
