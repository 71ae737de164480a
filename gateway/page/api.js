// HTTP requests of the page. URLs are relative, so that the page works behind any host name and proxy.

/** An Error with the `detail` of the problem document (RFC 9457), or the status. */
async function problemError(response) {
  const problem = await response.json().catch(() => ({}));
  return new Error(problem.detail ?? `${response.status} ${response.statusText}`);
}

let token = "";

/** Sets the token that every request carries; empty for none. It is kept in memory only. */
export function setToken(value) {
  token = value;
}

function authorization() {
  return token ? { authorization: `Bearer ${token}` } : {};
}

async function json(address, options) {
  const response = await fetch(address, { ...options, headers: authorization() });
  if (!response.ok) throw await problemError(response);
  return response.status === 204 ? null : response.json();
}

/** The URL of a file. */
export function address(file) {
  return `/file/stream?${new URLSearchParams({ filename: file.filename, folder: file.folder })}`;
}

/** The bytes of a file as a URL of this page: an element of a page cannot send a token. */
export async function objectUrl(file) {
  const response = await fetch(address(file), { headers: authorization() });
  if (!response.ok) throw await problemError(response);
  return URL.createObjectURL(await response.blob());
}

/** Whether requests carry a token. */
export function hasToken() {
  return token !== "";
}

/** One page of files, newest first, and the page token of the next one. */
export function list(after) {
  return json(`/file${after ? `?${new URLSearchParams({ after })}` : ""}`);
}

export function remove(file) {
  return json(address(file), { method: "DELETE" });
}

/**
 * Upload a form. Resolves with the file's id; calls `progress` with the sent fraction of the body, 0 to 1. Uses XMLHttpRequest, because
 * fetch reports no upload progress.
 */
export function upload(form, { sid, progress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/file/upload?${new URLSearchParams(sid ? { folder: form.get("folder"), sid } : { folder: form.get("folder") })}`);
    if (token) request.setRequestHeader("authorization", `Bearer ${token}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 201) resolve(request.response);
      else reject(new Error(request.response?.detail ?? `${request.status} ${request.statusText}`));
    };
    request.onerror = () => reject(new Error("the connection was lost"));
    request.onabort = () => reject(new Error("cancelled"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}
