// Asks others for a file: makes a link that uploads one into a folder, and shows those that were made in this window.
import { open } from "./dialogs.js";
import { el } from "./dom.js";
import { words } from "./format.js";
import { icon } from "./icons.js";
import { link as hashOf } from "./router.js";
import { addressLine, lifeField, showList, shares } from "./share_dialog.js";
import { faultOf } from "./upload_name.js";

const TYPES = { "": "Any type", "image/*": "Pictures", "video/*": "Videos", "audio/*": "Sounds", "application/pdf": "PDF" };
const MIB = 1024 * 1024;

const pageOf = ({ link }) => `${location.origin}/${hashOf("send", "", { link })}`;

/** Open the dialog for a folder. */
export function askForFile(folder) {
  const name = el("input", { class: "input", required: true, maxlength: 255, autocomplete: "off", spellcheck: false, placeholder: "report.pdf" });
  const most = el("input", { class: "input", type: "number", min: 1, step: 1, inputmode: "numeric", placeholder: "no limit" });
  const types = el("select", { class: "input" }, Object.entries(TYPES).map(([value, label]) => el("option", { value, text: label })));
  const field = (label, input) => el("label", { class: "field" }, el("span", { text: label }), input);
  const [life, lifePlace] = lifeField();
  const act = el("button", { class: "button primary" }, icon("link"), "Make a link");
  const result = el("div", { class: "stack", role: "status" });
  const list = el("div", { class: "shares" });
  const form = el(
    "form",
    { class: "dialog-form" },
    el("h2", { id: "ask-file-title", text: `Ask for a file${folder ? ` in “${folder}”` : ""}` }),
    el("p", { class: "soft", text: "Who has the link can put one file here, under this name, without a token. It works once: make a link for each file." }),
    field("Name of the file", name),
    el("div", { class: "ask-fields" }, field("Largest size in MiB", most), field("Type", types), lifePlace),
    el("div", { class: "dialog-actions ask-act" }, act),
  );
  name.addEventListener("input", () => name.setCustomValidity(""));
  form.onsubmit = async (event) => {
    event.preventDefault();
    const filename = name.value.trim();
    name.setCustomValidity(faultOf(filename));
    if (!name.reportValidity() || act.disabled) return;
    act.disabled = true;
    try {
      const limits = { ...(most.value ? { maxSize: Math.round(Number(most.value) * MIB) } : {}), ...(types.value ? { mediaTypes: [types.value] } : {}) };
      const one = await shares().ask({ folder, filename }, Number(life.value), limits, pageOf);
      const line = addressLine(one.address);
      result.replaceChildren(line);
      showList(list, "put");
      line.querySelector("button").focus();
    } catch (error) {
      result.replaceChildren(el("p", { class: "notice error", role: "alert", text: words(error) }));
    }
    act.disabled = false;
  };
  showList(list, "put");
  const close = el("form", { method: "dialog", class: "dialog-actions" }, el("button", { class: "button", text: "Close" }));
  open(el("dialog", { class: "share", "aria-labelledby": "ask-file-title" }, form, result, list, close));
  name.focus();
}
