// What this page asks the gateway over HTTP. Addresses are relative: the page works behind any host name and proxy.

/** The text of a refusal: `detail` of the problem document, or the status. */
async function refusal(response) {
  const problem = await response.json().catch(() => ({}));
  return new Error(problem.detail ?? `${response.status} ${response.statusText}`);
}

async function json(address, options) {
  const response = await fetch(address, options);
  if (!response.ok) throw await refusal(response);
  return response.status === 204 ? null : response.json();
}

/** Where a file can be read. */
export function address(file) {
  return `/file/stream?${new URLSearchParams({ filename: file.filename, folder: file.folder })}`;
}

/** One page of files, newest first, and the cursor of the next page. */
export function list(after) {
  return json(`/file${after ? `?${new URLSearchParams({ after })}` : ""}`);
}

export function remove(file) {
  return json(address(file), { method: "DELETE" });
}

/**
 * Upload a form. Resolves with the id; `progress` is told the share that was sent. XMLHttpRequest, because fetch reports no progress
 * of what it sends.
 */
export function upload(form, { sid, progress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/file/upload?${new URLSearchParams(sid ? { folder: form.get("folder"), sid } : { folder: form.get("folder") })}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 201) resolve(request.response);
      else reject(new Error(request.response?.detail ?? `${request.status} ${request.statusText}`));
    };
    request.onerror = () => reject(new Error("the connection broke off"));
    request.onabort = () => reject(new Error("cancelled"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}
