// Speaks over a WebSocket as Deepgram's browser clients do, and prints what came. Usage: node socket.mjs URL KEY

import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const [url, key] = process.argv.slice(2);
const browser = await puppeteer.launch({ args: chromium.args, executablePath: await chromium.executablePath(), headless: "shell" });
const page = await browser.newPage();
await page.goto(url);
const seen = await page.evaluate((key) => new Promise((done) => {
  const socket = new WebSocket(`ws://${location.host}/v1/speak?encoding=linear16&sample_rate=24000`, ["token", key]);
  let bytes = 0;
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    socket.send(JSON.stringify({ type: "Speak", text: "Hello there." }));
    socket.send(JSON.stringify({ type: "Flush" }));
  };
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") bytes += data.byteLength;
    else if (JSON.parse(data).type === "Flushed") done({ protocol: socket.protocol, bytes });
  };
  socket.onclose = ({ code }) => done({ code });
}), key);
console.log(JSON.stringify(seen));
await browser.close();
