// Verifies requests at a receiver. Uses only Node's own crypto.
import { createHmac, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";

/** `body` is the raw request body, before any JSON parser. */
export function verify(secret: string, headers: IncomingHttpHeaders, body: Buffer, toleranceSeconds = 300): boolean {
  const timestamp = String(headers["x-xtsystems-timestamp"] ?? "");
  const off = Math.abs(Date.now() / 1000 - Number(timestamp));
  if (!/^[0-9]+$/.test(timestamp) || off > toleranceSeconds) return false;
  const digest = createHmac("sha256", secret).update(timestamp).update(body).digest("hex");
  const expected = Buffer.from(`sha256=${digest}`);
  const given = Buffer.from(String(headers["x-xtsystems-signature"] ?? ""));
  return given.length === expected.length && timingSafeEqual(given, expected);
}
