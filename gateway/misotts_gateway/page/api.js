// The server's API. Addresses are relative, so the page works behind a path prefix.

const key = () => document.getElementById("key").value.trim();
export const address = (path) => new URL(path, document.baseURI);

export async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(address(path), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer");
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    const wait = response.headers.get("retry-after");
    const said = body?.error?.message ?? `the server answered ${response.status}`;
    throw new Error(wait && !said.includes("try again") ? `${said}; try again in ${wait} s` : said);
  }
  return response;
}

// Return the command that does the same as a request of this page.
export function curl(body, file) {
  const quoted = JSON.stringify(body, null, 1).replaceAll("\n", "").replaceAll("'", "'\\''");
  const shown = key() ? ` \\\n  -H "authorization: Bearer $MISOTTS_API_KEY"` : "";
  return `curl ${address("v1/audio/speech")} \\\n  -H "content-type: application/json"${shown} \\\n  -d '${quoted}' \\\n  -o ${file}`;
}
