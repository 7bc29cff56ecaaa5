// Serves databases of one Postgres as Supabase does, each at /<database>: @supabase/lite, made to answer like PostgREST where
// the two differ. What differs, and why it matters here:
//
// 1. lite grants ALL on every table to anon, authenticated and service_role. It is connected as a role that owns nothing and
//    may grant nothing (tests/db/lite.py), so that the rights are those of db/rights.sql.
// 2. lite gives a timestamptz as Postgres prints it (2026-11-22 08:00:00+00). PostgREST gives ISO 8601: `timestamptz` below.
// 3. lite answers 500 and the code SUP, with no SQLSTATE, for what it does not know: our own ES001 to ES006, 23514, 40P01.
//    PostgREST gives SQLSTATE, message and DETAIL of them all: `asPostgrest` below.
// 4. lite turns a jsonb argument into text and its driver turns that into JSON once more: the function gets a string. PostgREST
//    hands over the object: `jsonb` below.
// 5. lite guesses what the value of a filter is: of uint64 text it loses the last digits, "null" is none, {1} is an array,
//    and blanks at the ends fall away. PostgREST leaves it to Postgres: `asText` below.
// 6. JSON numbers pass through JavaScript: integers beyond 2^53 within jsonb lose their last digits. PostgREST lets Postgres
//    write the JSON. Not mended, and nothing of ours stands on it: Flower's uint64 ids are text.
// 7. lite grants what it grants when it is first asked; where two ask at once, Postgres refuses the second with XX000 ("tuple
//    concurrently updated"). PostgREST grants nothing: `grantedOnce` below asks alone, before anybody else does.
import { serve } from "@hono/node-server";
import { App } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";

const { server, port: wanted, secretKey, publishableKey } = JSON.parse(process.env.ESPALIER_LITE);
const apps = new Map();
const granted = new Map();

const timestamptz = {
  to: 1184,
  from: [1184],
  serialize: (value) => value,
  parse: (text) => text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00"),
};

const jsonb = {
  to: 3802,
  from: [3802],
  serialize: (value) => (typeof value === "string" ? value : JSON.stringify(value)),
  parse: JSON.parse,
};

// lite lets through the classes 21, 22, 42, 53 and 55 and these; the rest it is told as if a function had raised PGRST itself,
// with the status that PostgREST has for it.
const KNOWN = /^(21|22|42|53|55|PT|PGRST$|23502$|23503$|23505$|25006$)/;
const STATUS = [[/^P0001$/, 400], [/^08|^53/, 503], [/^57P01$/, 503], [/^(09|25|2D|38|39|3B|40|54|55|57|58|F0|P0|XX)/, 500]];

function asPostgrest(error) {
  if (typeof error?.code !== "string" || !/^[0-9A-Z]{5}$/.test(error.code) || KNOWN.test(error.code)) return error;
  const status = STATUS.find(([codes]) => codes.test(error.code))?.[1] ?? 400;
  const said = { code: error.code, message: error.message, details: error.detail ?? null, hint: error.hint ?? null };
  return Object.assign(new Error(JSON.stringify(said)), { code: "PGRST", detail: JSON.stringify({ status, headers: {} }) });
}

function appOf(database) {
  if (!apps.has(database)) {
    const url = new URL(server);
    url.pathname = `/${database}`;
    const connection = createPostgresConnection({
      url: url.href,
      postgresOptions: { types: { timestamptz, jsonb }, onnotice: () => {}, max: 10 },
    });
    const normalize = connection.normalizeDbError.bind(connection);
    connection.normalizeDbError = (error) => asPostgrest(normalize(error));
    const keys = { enabled: false, secret_key: secretKey, publishable_key: publishableKey };
    apps.set(database, new App({ connection, auth: keys, studio: { enabled: false } }));
  }
  return apps.get(database);
}

async function grantedOnce(app, database) {
  const headers = { apikey: secretKey, authorization: `Bearer ${secretKey}` };
  if (!granted.has(database)) granted.set(database, app.fetch(new Request("http://lite/rest/v1/project_list?limit=1", { headers })));
  await granted.get(database);
}

function asText(url) {
  for (const [name, value] of [...url.searchParams]) {
    const operand = /^eq\.(.*)$/s.exec(value)?.[1];
    if (operand !== undefined && /^(null|true|false|\d{16,}|.*[^\w.:+-].*)$/s.test(operand)) {
      url.searchParams.set(name, `in.("${operand.replace(/(["\\])/g, "\\$1")}")`);
    }
  }
}

const listening = serve({
  hostname: "127.0.0.1",
  port: wanted,
  async fetch(request) {
    const url = new URL(request.url);
    const [, database, ...path] = url.pathname.split("/");
    url.pathname = `/${path.join("/")}`;
    asText(url);
    const app = appOf(database);
    await grantedOnce(app, database);
    return app.fetch(new Request(url, request), { peerAddress: null });
  },
}, ({ port }) => console.log(`listening on ${port}`));

// Whoever started it holds its standard input: when that closes, the last one has left.
process.stdin.resume().on("end", () => {
  listening.close();
  process.exit(0);
});
