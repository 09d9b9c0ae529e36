// Adding and deleting voices.

import { call } from "./api.js";
import { Recorder } from "./recorder.js";
import { wav } from "./wav.js";

const by = (id) => document.getElementById(id);
let recorder = null;
let clip = null; // the recorded WAV file

function say(text, isError = false) {
  by("upload-message").textContent = text;
  by("upload-message").classList.toggle("error", isError);
}

async function record() {
  if (recorder) {
    const { samples, rate } = await recorder.stop();
    recorder = null;
    clip = new Blob([wav(samples, rate)], { type: "audio/wav" });
    by("recorded").textContent = `${(samples.length / rate).toFixed(1)} s recorded`;
  } else {
    recorder = await Recorder.start();
    by("file").value = "";
    const tick = () => {
      if (!recorder) return;
      by("recorded").textContent = `${recorder.seconds.toFixed(1)} s …`;
      setTimeout(tick, 200);
    };
    tick();
  }
  by("record").textContent = recorder ? "Stop recording" : "Record again";
  by("record").setAttribute("aria-pressed", String(Boolean(recorder)));
}

async function upload() {
  const sound = by("file").files[0] ?? clip;
  if (!sound) throw new Error("Choose an audio file, or record one.");
  const form = new FormData();
  for (const [field, id] of [["name", "name"], ["ref_text", "words"], ["consent", "consent"]]) form.set(field, by(id).value);
  form.set("audio_sample", sound, "clip");
  say("The clip is being checked …");
  const { id } = await (await call("v1/audio/voices", { method: "POST", body: form })).json();
  return id;
}

// `changed()` reads the list of voices again.
export function setUpVoices(changed) {
  const guarded = (action) => async (event) => {
    event.preventDefault();
    try {
      await action();
    } catch (error) {
      say(error.message, true);
    }
  };
  by("record").addEventListener("click", guarded(record));
  by("file").addEventListener("change", () => {
    clip = null;
    by("recorded").textContent = "";
  });
  by("upload").addEventListener("submit", guarded(async () => {
    const id = await upload();
    await changed();
    by("voice").value = id;
    say(`${id} is ready.`);
  }));
  by("remove").addEventListener("click", guarded(async () => {
    const name = by("voice").value;
    await call(`v1/audio/voices/${encodeURIComponent(name)}`, { method: "DELETE" });
    await changed();
    say(`${name} is deleted.`);
  }));
}
