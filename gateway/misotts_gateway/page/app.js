// The playground: reads the form, speaks, and shows what was measured.

import { call, curl } from "./api.js";
import { Player, Samples } from "./player.js";
import { Plots } from "./plots.js";
import { setUpVoices } from "./voices.js";
import { HEADER, closed } from "./wav.js";

const by = (id) => document.getElementById(id);
const plots = new Plots(by("wave"), by("spectrum"));
const STREAMED = ["wav", "pcm"]; // formats whose samples can be played as they arrive
let model = null;
let running = null; // the AbortController of the request that runs
let file = null; // address of the audio for download

function say(text, isError = false) {
  by("message").textContent = text;
  by("message").classList.toggle("error", isError);
}

function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, label]) => new Option(label, value, false, value === chosen)));
}

// Ask the server what it offers.
async function connect() {
  try {
    model = await (await call("v1/models/misotts")).json();
  } catch (error) {
    by("server").textContent = error.message;
    return;
  }
  by("server").textContent = `gateway ${model.versions["misotts-gateway"]}`;
  const voices = (await (await call("v1/audio/voices")).json()).voices;
  const own = voices.filter((voice) => voice.type !== "alias");
  const aliases = voices.filter((voice) => voice.type === "alias");
  const chosen = by("voice").value;
  options(by("voice"), [["", "the model's own"], ...[...own, ...aliases].map(({ id, voice }) => [id, voice ? `${id} (${voice})` : id])], chosen);
  const formats = Object.keys(model.formats).filter((name) => !name.endsWith("law"));
  options(by("format"), formats.map((name) => [name, STREAMED.includes(name) ? `${name} (plays at once)` : name]), by("format").value || "wav");
  by("voices").hidden = !model.uploads;
  rates();
}

function rates() {
  const { rates: offered, default_rate: usual } = model.formats[by("format").value];
  options(by("rate"), offered.map((rate) => [String(rate), `${rate / 1000} kHz`]), String(usual));
  update();
}

// Return the request as the form has it.
function body() {
  const wanted = { model: "misotts", input: by("text").value, response_format: by("format").value };
  if (by("voice").value) wanted.voice = by("voice").value;
  const rate = Number(by("rate").value);
  if (model && rate !== model.formats[wanted.response_format]?.default_rate) wanted.sample_rate = rate;
  for (const name of ["temperature", "top_k"]) if (by(name).value) wanted[name] = Number(by(name).value);
  if (by("normalize").value) wanted.apply_text_normalization = by("normalize").value;
  if (by("input_type").value === "ssml") wanted.input_type = "ssml";
  // A seed may be larger than the numbers that JavaScript counts exactly; JSON.rawJSON is not everywhere.
  if (by("seed").value) wanted.seed = Number(by("seed").value);
  return wanted;
}

function update() {
  if (!model) return;
  by("count").textContent = `${[...by("text").value].length} of ${model.limits.input}`;
  by("curl").textContent = curl(body(), `speech.${by("format").value}`);
}

async function speak() {
  if (running) running.abort();
  if (!model) await connect();
  if (!model) return say("The server does not answer.", true);
  const control = (running = new AbortController());
  const request = body();
  const player = new Player(Number(by("rate").value), model.audible_level);
  const started = performance.now();
  by("stop").disabled = false;
  for (const id of ["ttfa", "audible", "silence", "continuity", "length", "rtf", "used"]) by(id).textContent = "–";
  offer(null);
  say("Waiting for the first audio …");
  try {
    await player.context.resume();
    const response = await call("v1/audio/speech", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(request),
      signal: control.signal,
    });
    plots.start(player);
    const pieces = await receive(response, request.response_format, player, started);
    by("used").textContent = response.headers.get("x-misotts-seed") ?? "–";
    offer(pieces, request.response_format, response.headers.get("content-type"));
    say("Playing …");
    await Promise.race([player.played(), new Promise((done) => control.signal.addEventListener("abort", done))]);
    if (running === control) say(control.signal.aborted ? "Stopped." : "Done.");
  } catch (error) {
    if (running === control) say(control.signal.aborted ? "Stopped." : error.message, !control.signal.aborted);
  } finally {
    if (running === control) {
      plots.stop();
      running = null;
      by("stop").disabled = true;
    }
    await player.close();
  }
}

// Read a body to its end; play it as it arrives, or at its end if its format needs to be whole. Return its pieces.
async function receive(response, format, player, started) {
  const streamed = STREAMED.includes(format);
  const samples = new Samples(format === "wav" ? HEADER : 0);
  const pieces = [];
  let firstS = null; // time to first audio
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    if (streamed) player.add(samples.take(value));
    if (firstS === null && (player.samples || !streamed)) {
      firstS = (performance.now() - started) / 1000;
      by("ttfa").textContent = inMs(firstS);
      say(streamed ? "Speaking …" : `Receiving; ${format} plays when it is complete …`);
    }
    if (streamed) show(player, started, firstS);
  }
  const receivedS = (performance.now() - started) / 1000;
  if (!streamed) {
    const whole = await new Blob(pieces).arrayBuffer();
    player.add((await player.context.decodeAudioData(whole)).getChannelData(0));
  }
  show(player, started, firstS, receivedS);
  return pieces;
}

function inMs(seconds) { return `${Math.round(1000 * seconds)} ms`; }

function show(player, started, firstS, receivedS = (performance.now() - started) / 1000) {
  by("length").textContent = `${player.seconds.toFixed(2)} s`;
  by("rtf").textContent = player.samples ? (receivedS / player.seconds).toFixed(2) : "–";
  if (player.silenceS !== null) {
    by("silence").textContent = inMs(player.silenceS);
    by("audible").textContent = inMs(firstS + player.silenceS); // for a player that begins with the first samples
  }
  const gaps = player.gaps ? `, ${player.gaps} gap${player.gaps > 1 ? "s" : ""}` : "";
  by("continuity").textContent = `${(100 * player.continuity).toFixed(player.gaps ? 1 : 0)} %${gaps}`;
}

// Offer the audio as a file; null: there is none yet.
function offer(pieces, format, type) {
  if (file) URL.revokeObjectURL(file);
  file = null;
  const link = by("download");
  link.setAttribute("aria-disabled", String(!pieces));
  link.removeAttribute("href");
  if (!pieces) return;
  const joined = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  pieces.reduce((at, piece) => (joined.set(piece, at), at + piece.length), 0);
  file = URL.createObjectURL(new Blob([format === "wav" ? closed(joined) : joined], { type }));
  link.href = file;
  link.download = `speech.${format}`;
}

by("speak").addEventListener("submit", (event) => {
  event.preventDefault();
  speak();
});
by("stop").addEventListener("click", () => running?.abort());
by("format").addEventListener("change", rates);
by("speak").addEventListener("input", update);
by("key").addEventListener("change", connect);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault(); // in a field of one line, Enter alone submits too
    by("speak").requestSubmit();
  }
});
by("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(by("curl").textContent);
    by("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(by("curl")); // without https there is no clipboard: the user copies
    by("copy").textContent = "Selected";
  }
  setTimeout(() => (by("copy").textContent = "Copy"), 1500);
});
setUpVoices(connect);
connect();
