// A call as a command for a shell and as a Python program: each does what the page did.

import { hasKey } from "./api.js";
import { base64 } from "./png.js";

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const isJson = (call) => call.headers["Content-Type"] === "application/json";
const binaryAnswer = (call) => call.headers["Inference-Header-Content-Length"] !== undefined;

export function curl(call) {
  const words = ["curl -sS"];
  if (hasKey()) words.push('-H "Authorization: Bearer $DLENV_KEY"');
  for (const [name, value] of Object.entries(call.headers)) words.push(`-H ${quote(`${name}: ${value}`)}`);
  let before = "";
  if (call.source) {
    const imports = ["sys", ...call.source.imports].sort().join(", ");
    const made = [`import ${imports}`, ...call.source.before, `sys.stdout.buffer.write(${call.source.bytes})`];
    before = `python3 -c ${quote(made.join("\n"))} |\n`;
    words.push("--data-binary @-");
  } else if (isJson(call)) words.push(`-d ${quote(call.body)}`);
  else if (call.body) {
    before = `printf %s ${quote(base64(call.body))} | base64 -d |\n`;
    words.push("--data-binary @-");
  } else if (call.method !== "GET") words.push(`-X ${call.method}`);
  if (binaryAnswer(call)) words.push("--output answer.bin");
  words.push(quote(call.url));
  return before + words.join(" \\\n  ");
}

export function python(call) {
  const imports = new Set(["urllib.request", ...(call.source?.imports ?? [])]);
  let body = null;
  if (call.source) body = call.source.bytes;
  else if (isJson(call)) body = `json.dumps(${call.body}).encode()`;
  else if (call.body) body = `base64.b64decode("${base64(call.body)}")`;
  const headers = Object.entries(call.headers).map(([name, value]) => `"${name}": "${value}"`);
  if (hasKey()) headers.push('"Authorization": "Bearer " + os.environ["DLENV_KEY"]');
  const given = [`"${call.url}"`, ...(body ? ["body"] : [])];
  if (headers.length === 1) given.push(`headers={${headers[0]}}`);
  else if (headers.length) given.push(["headers={", ...headers.map((each) => `    ${each},`), "}"].join("\n    "));
  if (!body && call.method !== "GET") given.push(`method="${call.method}"`);
  const shown = printed(call);
  const text = [
    ...(call.source?.before ?? []),
    ...(body ? [`body = ${body}`] : []),
    "request = urllib.request.Request(",
    ...given.map((each) => `    ${each},`),
    ")",
    "with urllib.request.urlopen(request) as answer:",
    ...shown.map((each) => `    ${each}`),
  ].join("\n");
  for (const name of ["array", "base64", "json", "os", "zlib"]) if (text.includes(`${name}.`)) imports.add(name);
  return `${[...imports]
    .sort()
    .map((name) => `import ${name}`)
    .join("\n")}\n\n${text}\n`;
}

function printed(call) {
  if (binaryAnswer(call))
    return [
      'length = int(answer.headers["Inference-Header-Content-Length"])',
      'outputs = json.loads(answer.read(length))["outputs"]',
      'rows, classes = outputs[0]["shape"]',
      'probabilities = array.array("f", answer.read(4 * rows * classes))',
      "print(rows, list(probabilities[:classes]))",
    ];
  return call.type.startsWith("application/json") ? ["print(json.load(answer))"] : ["print(answer.read().decode())"];
}
