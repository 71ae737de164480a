// The button for the camera: there where the browser has one that the page may ask for.
import { toast } from "./dialogs.js";
import { el } from "./dom.js";
import { icon } from "./icons.js";

/** @param {(file: File) => void} take what was made */
export function createCameraButton(take) {
  const open = async () => {
    try {
      (await import("./camera.js")).openCamera(take);
    } catch {
      toast("The camera could not be loaded. Check the network, then try again.", { error: true });
    }
  };
  const button = el("button", { class: "button upload-folder camera-button", hidden: true, title: "Use the camera", "aria-label": "Use the camera", onclick: open }, icon("camera"));
  const devices = navigator.mediaDevices; // only with HTTPS, or on localhost
  if (!devices?.getUserMedia || !devices.enumerateDevices) return button;
  const look = () =>
    devices.enumerateDevices().then(
      (found) => (button.hidden = !found.some(({ kind }) => kind === "videoinput")),
      () => (button.hidden = true),
    );
  devices.addEventListener("devicechange", look);
  void look();
  return button;
}
