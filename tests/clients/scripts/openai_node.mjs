// What OpenAI's client for Node does before a server: run by tests/clients/test_openai.py. Prints JSON.
import { writeFileSync } from "node:fs";
import OpenAI from "openai";

const [out, text] = process.argv.slice(2);
const client = new OpenAI();
const found = {};
const asked = { model: "tts-1", voice: "alloy", input: text, response_format: "pcm", seed: 7, temperature: 0.5, top_k: 20 };

async function fails(askedBy, fields) {
  try {
    await askedBy.audio.speech.create({ ...asked, ...fields });
  } catch (error) {
    return [error.constructor.name, error.status, error.param, Boolean(error.requestID)];
  }
  return null;
}

async function read(response) {
  const pieces = [];
  for await (const piece of response.body) pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces);
}

for (const name of ["pcm", "mp3"]) {
  const response = await client.audio.speech.create({ ...asked, response_format: name });
  writeFileSync(`${out}/whole.${name}`, Buffer.from(await response.arrayBuffer()));
}
writeFileSync(`${out}/streamed.pcm`, await read(await client.audio.speech.create(asked)));

const leaving = new AbortController();
const left = await client.audio.speech.create({ ...asked, input: `${text} `.repeat(40) }, { signal: leaving.signal });
try {
  for await (const _ of left.body) leaving.abort();
} catch (error) {
  found.left = error.name;
}

found.errors = {
  voice: await fails(client, { voice: "unknown" }),
  speed: await fails(client, { speed: 2 }),
  input: await fails(client, { input: "" }),
  key: await fails(client.withOptions({ apiKey: "wrong", maxRetries: 0 }), {}),
};

const one = client.withOptions({ apiKey: "one-key" });
const holding = new AbortController();
await one.audio.speech.create({ ...asked, input: `${text} `.repeat(40) }, { signal: holding.signal });
found.refused = await fails(one.withOptions({ maxRetries: 0 }), {});
setTimeout(() => holding.abort(), 300);
writeFileSync(`${out}/retried.pcm`, await read(await one.audio.speech.create(asked)));
console.log(JSON.stringify(found));
