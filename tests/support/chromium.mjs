// Chromium for programs of Playwright, and the scenarios that a test asks for.
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

// First the spare renderer process and the page that draws the suggestions of the address bar (two features, each of which creates that
// page): no test uses them, and they took half of the CPU time of a page. Playwright's own list follows, because this switch replaces it.
const DISABLED_FEATURES = [
  ...["SpareRendererForSitePerProcess", "WebUIOmniboxPopup", "WebUIOmniboxAimPopup"],
  ...["AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades", "HttpsFirstBalancedModeAutoEnable", "LensOverlay"],
  ...["MediaRouter", "PaintHolding", "ThirdPartyStoragePartitioning", "AvoidCorsURLLoaderRestartOnRedirect", "OptimizationHints"],
  ...["NetworkTimeServiceQuerying", "AimEnabled", "PreconnectToSearch"],
];
const POLLING_MILLISECONDS = 50;

/** Start Chromium with flags of its command line. */
export const launch = (executablePath, ...flags) =>
  chromium.launch({ executablePath, args: ["--no-sandbox", `--disable-features=${DISABLED_FEATURES}`, ...flags] });

/** A new page of a context. It checks conditions at intervals: at each frame, as by default, took a tenth of the CPU time of the browser. */
export async function newPage(context) {
  const page = await context.newPage();
  const wait = page.waitForFunction.bind(page);
  page.waitForFunction = (condition, argument, options) => wait(condition, argument, { polling: POLLING_MILLISECONDS, ...options });
  return page;
}

/**
 * Open an address, again after net::ERR_NETWORK_CHANGED: Chromium aborts all requests when a network interface is added or removed, as by
 * a container engine, and a page without one of its modules does not start. `begin` resets what the caller has collected, before each attempt.
 */
export async function visit(page, address, begin = () => {}) {
  let interrupted = false;
  const note = (request) => (interrupted ||= request.failure()?.errorText === "net::ERR_NETWORK_CHANGED");
  page.on("requestfailed", note);
  for (let attempt = 0; attempt === 0 || (interrupted && attempt < 10); attempt++) {
    if (attempt) await page.goto("about:blank"); // another hash alone would load nothing
    interrupted = false;
    begin();
    await page.goto(address).catch((error) => {
      if (!interrupted) throw error;
    });
  }
  page.off("requestfailed", note);
}

/** Wait until what was changed is on the screen, pictures are there, and colours have ended to change. */
export const settled = (page) =>
  page.evaluate(async () => {
    await Promise.allSettled([...document.images].filter(({ loading, complete }) => complete || loading !== "lazy").map((image) => image.decode()));
    for (let frame = 0; frame < 2; frame++) await new Promise((resolve) => requestAnimationFrame(resolve));
    const finite = document.getAnimations().filter(({ effect }) => effect.getComputedTiming().endTime < Infinity);
    await Promise.allSettled(finite.map(({ finished }) => finished));
  });

/** Play the scenarios whose names are the lines of standard input, and print for each a line with what was seen, or with the error. */
export async function play(browser, scenarios) {
  for await (const name of createInterface({ input: process.stdin })) {
    const begun = Date.now();
    let seen;
    try {
      seen = await scenarios[name]();
    } catch (error) {
      const complaints = browser.contexts().flatMap((context) => context.pages().flatMap((page) => page.errors ?? []));
      seen = { failed: [error.stack ?? error, ...complaints].join("\n") };
    }
    for (const context of browser.contexts()) await context.close();
    console.log(JSON.stringify({ ...seen, took: Date.now() - begun }));
  }
  await browser.close();
}
