// The way to the server. Paths are those of the manager's port; the cookie of the login goes along by itself.

export class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

let onLoggedOut = () => {};

export function whenLoggedOut(callback) {
  onLoggedOut = callback;
}

async function call(method, path, body) {
  const headers = { "X-Wukong-Console": "1" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new ApiError(0, "The node does not answer");
  }
  const text = await answer.text();
  let value = null;
  try {
    // Ids are up to 64 bits; JSON numbers here are not.
    value = text ? JSON.parse(text.replace(/("(?:conn_id|id|message_id|created_at)":\s*)(\d{16,})/g, '$1"$2"')) : null;
  } catch {
    value = text;
  }
  if (!answer.ok) {
    if (answer.status === 401 && !path.startsWith("/web/")) onLoggedOut();
    throw new ApiError(answer.status, (value && (value.msg || value.error)) || `HTTP ${answer.status}`);
  }
  if (value && typeof value.status === "number" && value.status !== 200 && !("nodes" in value)) {
    throw new ApiError(value.status, value.msg || `status ${value.status}`);
  }
  return value;
}

function withQuery(path, query = {}) {
  const filled = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined && value !== null);
  return filled.length ? `${path}?${new URLSearchParams(filled)}` : path;
}

export const get = (path, query) => call("GET", withQuery(path, query));
export const post = (path, body = {}) => call("POST", path, body);
