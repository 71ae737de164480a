// Renders /openapi.json: every operation with a form that sends it ("Try it out"). Text is set as text, never as HTML.

const SHOWN_BYTES = 64 * 1024;
const at = (id) => document.getElementById(id);
let document_ = null;

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
  if (found.enum) return found.enum[0];
  if (found.anyOf || found.oneOf) return example((found.anyOf ?? found.oneOf)[0], depth);
  if (depth > 4) return null;
  switch (found.type) {
    case "object":
      return Object.fromEntries(Object.entries(found.properties ?? {}).map(([name, of]) => [name, example(of, depth + 1)]));
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

function parameterInput(parameter) {
  const input = document.createElement("input");
  input.value = parameter.schema?.default ?? "";
  input.placeholder = [parameter.in, resolved(parameter.schema).type].filter(Boolean).join(", ");
  return field(parameter.name, input, parameter.required ?? false, parameter.description);
}

/** The inputs of a request body, and a function that returns the body and its media type. */
function bodyInputs(content) {
  const [type, { schema } = {}] = Object.entries(content ?? {})[0] ?? [];
  if (!type) return { inputs: [], body: () => ({}) };
  if (type.includes("json")) {
    const input = document.createElement("textarea");
    input.value = JSON.stringify(example(schema), null, 2);
    return { inputs: [field("body", input, true)], body: () => ({ body: input.value, type }) };
  }
  const properties = Object.entries(resolved(schema).properties ?? {});
  if (type !== "multipart/form-data" && type !== "application/x-www-form-urlencoded") {
    const input = Object.assign(document.createElement("input"), { type: "file" });
    return { inputs: [field("body", input, false)], body: () => ({ body: input.files[0] ?? "", type: input.files[0]?.type }) };
  }
  const inputs = properties.map(([name, property]) => {
    const file = resolved(property).format === "binary";
    const input = Object.assign(document.createElement("input"), { type: file ? "file" : "text", name });
    return [input, field(name, input, resolved(schema).required?.includes(name) ?? false, property.description)];
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
    if (place === "path") target = target.replace(`{${name}}`, encodeURIComponent(value));
    else if (place === "query") query.append(name, value);
    else if (place === "header") headers.set(name, value);
  }
  if (type) headers.set("content-type", type);
  if (at("authorization").value) headers.set("authorization", at("authorization").value);
  const began = performance.now();
  const response = await fetch(query.size ? `${target}?${query}` : target, { method, headers, body });
  const fields = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
  const line = `${response.status} ${response.statusText} (${Math.round(performance.now() - began)} ms)`;
  return `${line}\n${fields}\n\n${await start(response)}`;
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
  const { inputs: bodies, body } = bodyInputs(resolved(described.requestBody).content);
  const answer = Object.assign(document.createElement("pre"), { hidden: true });
  const form = element("form", ...inputs, ...bodies, element("button", "Try it out"));
  form.onsubmit = async (submitted) => {
    submitted.preventDefault();
    const given = parameters.map((parameter, index) => ({ ...parameter, value: inputs[index].querySelector("input").value }));
    answer.hidden = false;
    answer.textContent = "…";
    const sent = send(method.toUpperCase(), path, given, bodies.length ? body() : {});
    answer.textContent = await sent.catch((error) => error.message);
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

try {
  document_ = await (await fetch("/openapi.json")).json();
  const groups = Map.groupBy
    ? Map.groupBy(all(), ({ described }) => described.tags?.[0] ?? "other")
    : new Map([["all", [...all()]]]);
  at("operations").replaceChildren(
    ...[...groups].flatMap(([name, members]) => [
      element("h2", name),
      ...members.map(({ path, method, described }) => operation(path, method, described)),
    ]),
  );
} catch (error) {
  at("operations").textContent = error.message;
}

function* all() {
  for (const [path, item] of Object.entries(document_.paths)) {
    for (const [method, described] of Object.entries(item)) yield { path, method, described };
  }
}
