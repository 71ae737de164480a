// The button that asks others for a file: links that upload are made with a token.
import { currentToken, tokenListeners } from "./app.js";
import { toast } from "./dialogs.js";
import { el } from "./dom.js";
import { icon } from "./icons.js";

/** @param {() => string} folder the one that is open */
export function createAskButton(folder) {
  const open = async () => {
    try {
      (await import("./ask_dialog.js")).askForFile(folder());
    } catch {
      toast("This could not be loaded. Check the network, then try again.", { error: true });
    }
  };
  const button = el("button", { class: "button upload-folder ask-button", hidden: !currentToken(), title: "Ask for a file", "aria-label": "Ask for a file", onclick: open }, icon("ask"));
  tokenListeners.add((token) => (button.hidden = !token));
  return button;
}
