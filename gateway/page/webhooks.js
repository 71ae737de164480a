// Shows endpoints and deliveries of webhooks, once they are asked for, and sends dead letters again.

const SHOWN_DELIVERIES = 50;

/** `at` returns an element by its id, `element` makes one, `token` returns the token. */
export function showWebhooks({ at, element, token }) {
  async function call(path, body) {
    const headers = token() ? { authorization: `Bearer ${token()}` } : {};
    if (body) headers["content-type"] = "application/json";
    const response = await fetch(`/webhooks/${path}`, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.detail ?? `the server answered ${response.status}`);
    return answer;
  }

  function line(...cells) {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => (typeof cell === "object" ? cell : element("td", String(cell)))));
    return row;
  }

  function again(text, selection) {
    const cell = document.createElement("td");
    cell.append(element("button", text, { onclick: () => attempt(() => call("replays", selection)) }));
    return cell;
  }

  /** Do something, then show what is there now, or the error. */
  async function attempt(action) {
    try {
      await action();
      const [endpoints, deliveries] = await Promise.all([call("endpoints"), call(`deliveries?limit=${SHOWN_DELIVERIES}`)]);
      at("endpoints").replaceChildren(
        ...endpoints.map((each) =>
          line(each.id, each.ended ? "ended" : each.url, each.waiting, `${Math.round(each.oldest_seconds)} s`, each.dead, again("Send dead again", { endpoint: each.id, state: "dead" })),
        ),
      );
      at("deliveries").replaceChildren(
        ...deliveries.map((each) =>
          line(each.endpoint, each.type, each.state, each.status ?? each.error, each.created_at, again("Send again", { id: each.id })),
        ),
      );
      at("webhooks-result").textContent = endpoints.length ? "" : "No endpoints.";
    } catch (error) {
      at("webhooks-result").textContent = error.message;
    }
  }

  at("webhooks").ontoggle = () => at("webhooks").open && attempt(() => {});
}
