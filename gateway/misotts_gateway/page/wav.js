// WAV files of 16-bit mono.

export const HEADER = 44;

// Return a WAV file of float samples of -1..1.
export function wav(samples, rate) {
  const bytes = new Uint8Array(HEADER + 2 * samples.length);
  const view = new DataView(bytes.buffer);
  const text = (at, word) => [...word].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  text(8, "WAVEfmt ");
  text(36, "data");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  samples.forEach((sample, index) => view.setInt16(HEADER + 2 * index, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return closed(bytes);
}

// State the true length in a file that was streamed with an unknown one.
export function closed(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  view.setUint32(4, bytes.length - 8, true);
  view.setUint32(40, bytes.length - HEADER, true);
  return bytes;
}
