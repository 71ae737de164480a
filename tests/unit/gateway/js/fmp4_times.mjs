// Reads the times of fragments as the page does, and prints them.
import { readFileSync } from "node:fs";
import { baseTime, timescales } from "./fmp4.js";
const { init, fragments } = JSON.parse(readFileSync("given.json", "utf-8"));
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64")).buffer;
const scales = timescales(bytes(init));
const cut = bytes(fragments[0]).slice(0, 40);
console.log(JSON.stringify({ scales: [...scales], times: fragments.map((one) => baseTime(bytes(one), scales)), cut: baseTime(cut, scales), empty: baseTime(new ArrayBuffer(0), scales) }));
