// What the SDKs of Cartesia, ElevenLabs and Deepgram for Node do before a server: run by tests/clients/test_vendors.py.
// Prints JSON. Cartesia's WebSocket speaks TLS only: MISOTTS_TLS is the address of a listener with it.
const { writeFileSync } = require("node:fs");
const { Cartesia } = require("@cartesia/cartesia-js");
const { ElevenLabsClient } = require("@elevenlabs/elevenlabs-js");
const { DeepgramClient } = require("@deepgram/sdk");

const [out, text] = process.argv.slice(2);
const { MISOTTS_URL: url, MISOTTS_TLS: tls, MISOTTS_API_KEY: key } = process.env;
const found = {};

async function save(name, body) {
  const pieces = [];
  for await (const piece of body) pieces.push(Buffer.from(piece));
  writeFileSync(`${out}/${name}.pcm`, Buffer.concat(pieces));
}

async function cartesia() {
  const output_format = { container: "raw", encoding: "pcm_s16le", sample_rate: 24000 };
  const asked = { model_id: "sonic-3", voice: { id: "alloy" }, output_format, language: "en" };
  const client = new Cartesia({ apiKey: key, baseURL: url });
  await save("cartesia", (await client.tts.generate({ ...asked, transcript: text })).body);
  try {
    await client.tts.generate({ ...asked, voice: { id: "unknown" }, transcript: text });
  } catch (error) {
    found.cartesia = error.status;
  }
  const socket = await new Cartesia({ apiKey: key, baseURL: tls }).tts.websocket();
  const context = socket.context({ ...asked });
  for (const word of text.split(" ")) await context.push({ transcript: `${word} ` });
  await context.no_more_inputs();
  const pieces = [];
  for await (const event of context.receive()) if (event.type === "chunk" && event.audio) pieces.push(event.audio);
  writeFileSync(`${out}/cartesia socket.pcm`, Buffer.concat(pieces.map((each) => Buffer.from(each))));
  socket.close();
}

async function elevenlabs() {
  const client = new ElevenLabsClient({ apiKey: key, baseUrl: url });
  const asked = { text, modelId: "eleven_turbo_v2_5", outputFormat: "pcm_24000" };
  await save("elevenlabs", await client.textToSpeech.stream("alloy", asked));
  try {
    await client.textToSpeech.convert("unknown", asked);
  } catch (error) {
    found.elevenlabs = error.statusCode;
  }
}

async function deepgram() {
  const ws = url.replace("http", "ws");
  const client = new DeepgramClient({ apiKey: key, environment: { base: url, production: ws, agent: ws, agentRest: url } });
  const asked = { model: "alloy", encoding: "linear16", sample_rate: 24000 };
  const response = await client.speak.v1.audio.generate({ text, container: "none", ...asked });
  await save("deepgram", response.stream());
  const socket = await client.speak.v1.connect({ ...asked, Authorization: `Token ${key}` });
  const pieces = [];
  const flushed = new Promise((done, failed) => {
    socket.on("error", failed);
    socket.on("message", (message) => {
      if (message instanceof Blob || message instanceof ArrayBuffer) pieces.push(message);
      else if (message.type === "Flushed") done();
    });
  });
  socket.connect();
  await socket.waitForOpen();
  for (const word of text.split(" ")) socket.sendText({ type: "Speak", text: `${word} ` });
  socket.sendFlush({ type: "Flush" });
  await flushed;
  writeFileSync(`${out}/deepgram socket.pcm`, Buffer.from(await new Blob(pieces).arrayBuffer()));
  socket.close();
}

(async () => {
  for (const each of [elevenlabs, deepgram, cartesia]) await each();
  console.log(JSON.stringify(found));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
