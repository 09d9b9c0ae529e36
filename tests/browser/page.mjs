// Uses the playground as a person would, and prints what it saw as one JSON object. Usage: node page.mjs URL CLIP FOLDER
// FOLDER gets the screenshots.

import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const [url, clip, folder] = process.argv.slice(2);
const seen = { complaints: [] };

const browser = await puppeteer.launch({
  args: [...chromium.args, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
  executablePath: await chromium.executablePath(),
  headless: "shell",
});
const page = await browser.newPage();
page.on("console", (message) => ["error", "warn"].includes(message.type()) && seen.complaints.push(message.text()));
page.on("pageerror", (error) => seen.complaints.push(String(error)));
await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
await page.setViewport({ width: 1100, height: 1250 });
await page.goto(url);
await page.waitForFunction(() => document.querySelectorAll("#voice option").length > 1, { timeout: 60_000 });

const text = (id) => page.$eval(`#${id}`, (element) => element.textContent);
const write = async (id, value) => {
  await page.$eval(`#${id}`, (element) => { element.value = ""; });
  await page.type(`#${id}`, value);
};
const said = (words, timeout = 60_000) =>
  page.waitForFunction((words) => document.getElementById("message").textContent.startsWith(words), { timeout }, words);
const lit = (id) => page.$eval(`#${id}`, (canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) count += data[at] > 90;
  return count / (data.length / 4);
});
const facts = async () => Object.fromEntries(await Promise.all(["ttfa", "audible", "silence", "continuity", "length", "rtf", "used"].map(async (id) => [id, await text(id)])));

seen.server = await text("server");
seen.voices = await page.$$eval("#voice option", (options) => options.map((option) => option.value));

// Speak, by the keyboard alone.
await write("text", "Hello there, how are you today?");
await page.$eval("details", (details) => { details.open = true; });
await write("seed", "7");
await page.keyboard.down("Control");
await page.keyboard.press("Enter");
await page.keyboard.up("Control");
const began = Date.now();
await said("Speaking");
await new Promise((done) => setTimeout(done, 1200));
await page.screenshot({ path: `${folder}/speaking.png` });
await said("Done");
seen.spoken = { ...(await facts()), seconds: (Date.now() - began) / 1000, wave: await lit("wave"), spectrum: await lit("spectrum") };
seen.curl = await text("curl");
seen.download = await page.$eval("#download", async (link) => {
  const bytes = new Uint8Array(await (await fetch(link.href)).arrayBuffer());
  return { name: link.download, size: bytes.length, stated: new DataView(bytes.buffer).getUint32(40, true) };
});

// Every other format plays when it is complete.
seen.formats = {};
for (const format of (await page.$$eval("#format option", (options) => options.map((option) => option.value)))) {
  await page.select("#format", format);
  await page.$eval("#message", (message) => { message.textContent = ""; });
  await page.click("#go");
  await page.waitForFunction(() => {
    const message = document.getElementById("message");
    return message.textContent === "Done." || message.classList.contains("error");
  }, { timeout: 60_000 });
  seen.formats[format] = { message: await text("message"), ...(await facts()) };
}
await page.select("#format", "wav");

// Stop.
await page.$eval("#message", (message) => { message.textContent = ""; });
await write("text", "x".repeat(280));
await page.click("#go");
await said("Speaking");
await page.keyboard.press("Escape");
await said("Stopped", 3000);
seen.stopped = await page.$eval("#stop", (button) => button.disabled);

// An error of the server is shown.
await write("text", "...");
await page.click("#go");
await page.waitForSelector("#message.error");
seen.error = await text("message");

// Add a voice from a file, and one from the microphone.
const add = async (name) => {
  await write("name", name);
  await page.click("#upload button[type=submit]");
  await page.waitForFunction((name) => {
    const message = document.getElementById("upload-message");
    return message.textContent === `${name} is ready.` || message.classList.contains("error");
  }, { timeout: 60_000 }, name);
  return text("upload-message");
};
await page.$eval("#voices", (details) => { details.open = true; });
await write("words", "The words of the clip.");
await write("consent", "cons_1");
await (await page.$("#file")).uploadFile(clip);
seen.fromFile = await add("from-file");
await page.click("#record");
await page.waitForFunction(() => parseFloat(document.getElementById("recorded").textContent) > 2, { timeout: 60_000 });
await page.click("#record");
await page.waitForFunction(() => document.getElementById("recorded").textContent.includes("recorded"));
seen.fromMicrophone = await add("from-microphone");
seen.chosen = await page.$eval("#voice", (select) => select.value);
await write("text", "Hello.");
await page.$eval("#message", (message) => { message.textContent = ""; });
await page.click("#go");
await said("Done");
await page.click("#remove");
await page.waitForFunction(() => document.getElementById("upload-message").textContent.includes("deleted"));
seen.left = await page.$$eval("#voice option", (options) => options.map((option) => option.value));

// A telephone's screen.
await page.setViewport({ width: 375, height: 740, isMobile: true, hasTouch: true });
await page.reload();
await page.waitForFunction(() => document.querySelectorAll("#voice option").length > 1);
seen.telephone = await page.evaluate(() => ({
  overflow: document.documentElement.scrollWidth - innerWidth,
  smallest: Math.min(...[...document.querySelectorAll("button, select, input, .button")].filter((each) => each.offsetParent).map((each) => each.offsetHeight)),
}));
await page.screenshot({ path: `${folder}/telephone.png`, fullPage: true });

// Every control has a name for those who do not see it.
seen.unnamed = (await page.$$eval("button, select, input, textarea, a", (all) => all.filter((each) =>
  !(each.labels?.length || each.getAttribute("aria-label") || each.textContent.trim())).map((each) => each.id)));

console.log(JSON.stringify(seen));
await browser.close();
