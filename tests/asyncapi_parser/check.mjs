// Prints what AsyncAPI's own parser has to say of the document on standard input: a JSON array of findings.
import { text } from "node:stream/consumers";
import { Parser } from "@asyncapi/parser";

const { diagnostics } = await new Parser().parse(await text(process.stdin));
const findings = diagnostics.map(({ code, severity, path, message }) => ({ code, severity, path: path.join("."), message }));
console.log(JSON.stringify(findings));
