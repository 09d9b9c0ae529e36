// Speech from a misotts server with OpenAI's client for Node, while it is generated. OPENAI_BASE_URL names the server:
// http://localhost:8080/v1.
import OpenAI from "openai";

const client = new OpenAI(); // it reads OPENAI_BASE_URL, and OPENAI_API_KEY, which has to be set to anything
const response = await client.audio.speech.create({
  model: "tts-1",
  voice: "alloy",
  input: "Good morning. How are you today?",
  response_format: "pcm",
});
for await (const piece of response.body) {
  process.stdout.write(piece); // 16-bit little-endian samples, 24 kHz mono
}
