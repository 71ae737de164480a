// Renders /openapi.json: every operation with a form that sends it ("Try it out"). Text is set as text, never as HTML.
//
// The forms are filled in with examples that work as they are: this page opens a socket, whose sid they name, and an example that needs
// a file or an upload first sends the example that makes it.

const SHOWN_BYTES = 64 * 1024;
const RECONNECT_MILLISECONDS = 1000;
const METHODS = ["options", "post", "put", "get", "head", "patch", "delete"];
/** By operation id: the operations whose examples make what this one's example needs. */
const PREPARED_BY = {
  get_file: ["put_file"],
  head_file: ["put_file"],
  get_file_info: ["put_file"],
  delete_file: ["put_file"],
  delete_files: ["put_file"],
  move_file: ["put_file"],
  restore_file: ["put_file", "delete_file"],
  put_poster: ["put_file"],
  get_poster: ["put_file", "put_poster"],
  delete_poster: ["put_file", "put_poster"],
  get_file_by_path: ["put_file_by_path"],
  head_file_by_path: ["put_file_by_path"],
  delete_file_by_path: ["put_file_by_path"],
  tus_head: ["tus_create"],
  tus_patch: ["tus_create"],
  tus_terminate: ["tus_create"],
};
const at = (id) => document.getElementById(id);
const EXAMPLE_TEXT = "Hello\n";
/** A GIF of one pixel. */
const EXAMPLE_PICTURE = Uint8Array.from(atob("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"), (char) => char.charCodeAt(0));
/** By operation id: the bytes of the example where they are no text. */
const EXAMPLE_BYTES = { put_poster: EXAMPLE_PICTURE };
/** Inputs that show the sid of this page's socket. */
const sidInputs = [];
let document_ = null;
let sid = "";

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The schema that a reference points to, or the schema itself. */
function resolved(schema) {
  if (!schema?.$ref) return schema ?? {};
  return resolved(schema.$ref.slice(2).split("/").reduce((part, key) => part?.[key], document_));
}

/** An example value of a schema. `depth` ends schemas that contain themselves. */
function example(schema, depth = 0) {
  const found = resolved(schema);
  if ("example" in found) return found.example;
  if (found.examples?.length) return found.examples[0];
  if ("default" in found) return found.default;
  if ("const" in found) return found.const;
  if (found.enum) return found.enum[0];
  if (found.anyOf || found.oneOf) return example((found.anyOf ?? found.oneOf)[0], depth);
  if (depth > 4) return null;
  switch (found.type) {
    case "object":
      // An empty string is a value, and seldom a valid one: what need not be sent is left out.
      return Object.fromEntries((found.required ?? []).map((name) => [name, example(found.properties?.[name], depth + 1)]));
    case "array":
      return [];
    case "boolean":
      return false;
    case "integer":
    case "number":
      return found.minimum ?? 0;
    default:
      return found.type === "string" ? "" : null;
  }
}

function field(label, input, required, description) {
  input.required = required;
  return element("label", `${label}${required ? " *" : ""}`, input, description ? element("small", description) : null);
}

/** What a parameter is filled in with. Examples in the schema of a parameter that need not be sent are for readers only. */
function parameterExample(parameter) {
  const stated = parameter.example ?? Object.values(parameter.examples ?? {})[0]?.value ?? resolved(parameter.schema).default;
  return stated ?? (parameter.required ? example(parameter.schema) : "");
}

function parameterInput(parameter) {
  const input = document.createElement("input");
  input.value = parameterExample(parameter);
  if (parameter.in === "path" && parameter.name === "sid") showSid(input);
  input.placeholder = [parameter.in, resolved(parameter.schema).type].filter(Boolean).join(", ");
  return field(parameter.name, input, parameter.required ?? false, parameter.description);
}

/** A file input that holds a small text. */
function fileInput(name, filled, bytes = EXAMPLE_TEXT) {
  const input = Object.assign(document.createElement("input"), { type: "file", name });
  if (filled) {
    const files = new DataTransfer();
    files.items.add(new File([bytes], `hello-${Date.now()}.txt`, { type: "text/plain" }));
    input.files = files.files;
  }
  return input;
}

/** The inputs of a request body, and a function that returns the body and its media type. */
function bodyInputs({ content, required = false }, bytes) {
  const [type, { schema } = {}] = Object.entries(content ?? {})[0] ?? [];
  if (!type) return { inputs: [], body: () => ({}) };
  if (type.includes("json")) {
    const input = document.createElement("textarea");
    input.value = JSON.stringify(example(schema), null, 2);
    return { inputs: [field("body", input, true)], body: () => ({ body: input.value, type }) };
  }
  const properties = Object.entries(resolved(schema).properties ?? {});
  if (type !== "multipart/form-data" && type !== "application/x-www-form-urlencoded") {
    const input = fileInput("", required, bytes);
    return { inputs: [field("body", input, false)], body: () => ({ body: input.files[0] ?? "", type }) };
  }
  const inputs = properties.map(([name, property]) => {
    const file = resolved(property).format === "binary";
    const needed = resolved(schema).required?.includes(name) ?? false;
    const input = file ? fileInput(name, needed) : Object.assign(document.createElement("input"), { name });
    return [input, field(name, input, needed, property.description)];
  });
  const body = () => {
    // Files go last, so that a service can reject the request by the fields before it receives them.
    const parts = inputs.map(([input]) => [input.name, input.type === "file" ? input.files[0] : input.value]);
    const form = type === "multipart/form-data" ? new FormData() : new URLSearchParams();
    parts.sort(([, a], [, b]) => (a instanceof File) - (b instanceof File));
    for (const [name, value] of parts) if (value) form.append(name, value);
    return { body: form };
  };
  return { inputs: inputs.map(([, label]) => label), body };
}

async function send(method, path, parameters, { body, type } = {}) {
  const query = new URLSearchParams();
  const headers = new Headers();
  let target = path;
  for (const { name, in: place, required, value } of parameters) {
    if (!value && !required) continue;
    // The segments of a path address are encoded, the slashes between them are not.
    if (place === "path") target = target.replace(`{${name}}`, () => value.split("/").map(encodeURIComponent).join("/"));
    else if (place === "query") query.append(name, value);
    else if (place === "header") headers.set(name, value);
  }
  if (type) headers.set("content-type", type);
  if (at("authorization").value) headers.set("authorization", at("authorization").value);
  const began = performance.now();
  const response = await fetch(query.size ? `${target}?${query}` : target, { method, headers, body });
  const fields = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
  const line = `${response.status} ${response.statusText} (${Math.round(performance.now() - began)} ms)`;
  return { response, text: `${line}\n${fields}\n\n${await start(response)}` };
}

/** The first SHOWN_BYTES of a response body as text; the rest is not fetched. */
async function start(response) {
  const textual = /json|text|xml/.test(response.headers.get("content-type") ?? "");
  if (!textual) {
    await response.body?.cancel();
    return response.body ? "(not a text)" : "";
  }
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (reader && text.length < SHOWN_BYTES) {
    const { done, value } = await reader.read();
    if (done) return text;
    text += decoder.decode(value, { stream: true });
  }
  await reader?.cancel();
  return `${text.slice(0, SHOWN_BYTES)}…`;
}

function operation(path, method, described) {
  const parameters = (described.parameters ?? []).map((parameter) => resolved(parameter));
  const inputs = parameters.map(parameterInput);
  const { inputs: bodies, body } = bodyInputs(resolved(described.requestBody), EXAMPLE_BYTES[described.operationId]);
  const answer = Object.assign(document.createElement("pre"), { hidden: true });
  const form = element("form", ...inputs, ...bodies, element("button", "Try it out"));
  const values = () => parameters.map((parameter, index) => ({ ...parameter, value: inputs[index].querySelector("input").value }));
  let prepared = PREPARED_BY[described.operationId];
  form.noValidate = prepared !== undefined; // what is prepared fills in what is missing
  form.oninput = () => {
    prepared = undefined;
    form.noValidate = false;
  };
  form.onsubmit = async (submitted) => {
    submitted.preventDefault();
    answer.hidden = false;
    answer.textContent = "…";
    try {
      for (const id of prepared ?? []) await prepare(id, parameters, inputs);
      answer.textContent = (await send(method.toUpperCase(), path, values(), bodies.length ? body() : {})).text;
    } catch (error) {
      answer.textContent = error.message;
    }
  };
  const statuses = Object.entries(described.responses ?? {}).map(([status, { description }]) => element("li", `${status} ${description}`));
  return element(
    "details",
    element("summary", element("b", method), ` ${path}  `, element("small", described.summary ?? "")),
    described.description ? element("p", described.description) : null,
    form,
    answer,
    element("ul", ...statuses),
  );
}

/** Send the example of operation `id`, which replaces no file, and fill in the id of the upload that it creates. */
async function prepare(id, parameters, inputs) {
  const { path, method, described } = [...all()].find((one) => one.described.operationId === id);
  const examples = described.parameters.map((one) => ({ ...resolved(one), value: parameterExample(resolved(one)) }));
  if (id.startsWith("put_file")) examples.push({ name: "If-None-Match", in: "header", value: "*" });
  const bytes = EXAMPLE_BYTES[id] ?? EXAMPLE_TEXT;
  const body = described.requestBody?.required ? { body: bytes, type: "application/octet-stream" } : {};
  const { response } = await send(method.toUpperCase(), path, examples, body);
  const upload = parameters.findIndex(({ name }) => name === "upload");
  if (upload >= 0) inputs[upload].querySelector("input").value = response.headers.get("location")?.split("/").pop() ?? "";
}

/** Let an input show the sid of this page's socket until someone types another one. */
function showSid(input) {
  input.value = sid;
  sidInputs.push(input);
  input.addEventListener("input", () => sidInputs.splice(sidInputs.indexOf(input), 1), { once: true });
}

/** Keep a socket open, so that the examples of sockets reach one. */
function connect() {
  const socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/ws`);
  socket.onmessage = ({ data }) => {
    sid = JSON.parse(data).sid;
    for (const input of sidInputs) input.value = sid;
    socket.onmessage = null;
  };
  socket.onclose = () => setTimeout(connect, RECONNECT_MILLISECONDS);
}

try {
  document_ = await (await fetch("/openapi.json")).json();
  const groups = Map.groupBy
    ? Map.groupBy(all(), ({ described }) => described.tags?.[0] ?? "other")
    : new Map([["all", [...all()]]]);
  at("operations").replaceChildren(
    ...[...groups].flatMap(([name, members]) => [
      element("h2", name),
      ...[...members]
        .sort((one, other) => METHODS.indexOf(one.method) - METHODS.indexOf(other.method))
        .map(({ path, method, described }) => operation(path, method, described)),
    ]),
  );
  connect();
} catch (error) {
  at("operations").textContent = error.message;
}

function* all() {
  for (const [path, item] of Object.entries(document_.paths)) {
    for (const [method, described] of Object.entries(item)) yield { path, method, described };
  }
}
