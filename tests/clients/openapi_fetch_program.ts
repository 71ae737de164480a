// Uses the types that openapi-typescript has made, with openapi-fetch: compiled with `tsc --strict`, then run by Node.

import { deepStrictEqual, ok, strictEqual } from "node:assert";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const [url, sid] = process.argv.slice(2) as [string, string];
const client = createClient<paths>({ baseUrl: url });
const data = crypto.getRandomValues(new Uint8Array(60_000));
const blob = new Blob([data]);
// The document says `string` with the format `binary`, for which TypeScript has no type.
const file = blob as unknown as string;
const binary = { bodySerializer: (body: unknown) => body as BodyInit, headers: { "content-type": "application/octet-stream" } };
const name = { filename: "100% a;b.bin", folder: "generated/typescript" };
const tus = { "Tus-Resumable": "1.0.0" } as const;

const put = await client.PUT("/file/stream", { params: { query: name }, body: file, ...binary });
strictEqual(put.response.status, 201);
const got = await client.GET("/file/stream", { params: { query: name }, parseAs: "arrayBuffer" });
deepStrictEqual(new Uint8Array(got.data!), data);
const part = await client.GET("/file/stream", { params: { query: name, header: { Range: "bytes=5-9" } }, parseAs: "arrayBuffer" });
deepStrictEqual(new Uint8Array(part.data!), data.slice(5, 10));
strictEqual((await client.HEAD("/file/stream", { params: { query: name } })).response.status, 200);
const info = await client.GET("/file/info", { params: { query: name } });
const described: components["schemas"]["FileInfo"] = info.data!;
strictEqual(described.length, data.length);
const listed = await client.GET("/file", { params: { query: { folder: name.folder } } });
deepStrictEqual(listed.data!.files.map(({ id }) => id), [described.id]);
ok((await client.GET("/file/folders", { params: { query: { limit: 200 } } })).data!.folders.includes(name.folder));
ok((await client.GET("/file/folders", { params: { query: { totals: true } } })).data!.totals!.length);
const gif = new Blob([new Uint8Array([71, 73, 70, 56, 57, 97, 0])]) as unknown as string;
strictEqual((await client.PUT("/file/poster", { params: { query: name }, body: gif, ...binary })).response.status, 200);
strictEqual((await client.GET("/file/poster", { params: { query: name }, parseAs: "blob" })).response.status, 200);
strictEqual((await client.DELETE("/file/poster", { params: { query: name } })).response.status, 204);
const moved = await client.PATCH("/file", { params: { query: name }, body: { filename: "moved.bin" } });
strictEqual(moved.data!.id, described.id);
const named = { filename: "moved.bin", folder: name.folder };
strictEqual((await client.POST("/file/delete", { body: { files: [named] } })).data!.results[0]!.status, 204);
strictEqual((await client.POST("/file/restore", { params: { query: named } })).data!.id, described.id);
strictEqual((await client.DELETE("/file/stream", { params: { query: named } })).response.status, 204);
const missing = await client.GET("/file/stream", { params: { query: name, header: { "Cache-Control": "no-cache" } } });
strictEqual(missing.error!.detail, "file not found");

const form = await client.POST("/file/upload", {
  body: { file, folder: "generated/form" },
  bodySerializer: (body) => {
    const fields = new FormData();
    fields.append("folder", body!.folder!);
    fields.append("file", body!.file as unknown as Blob, `${crypto.randomUUID()}.bin`);
    return fields;
  },
});
strictEqual(typeof form.data, "string");

const path = { path: "100% typescript;.bin" };
strictEqual((await client.PUT("/files/{path}", { params: { path }, body: file, ...binary })).response.status, 201);
strictEqual((await client.GET("/files/{path}", { params: { path }, parseAs: "arrayBuffer" })).response.status, 200);
strictEqual((await client.HEAD("/files/{path}", { params: { path } })).response.status, 200);
strictEqual((await client.DELETE("/files/{path}", { params: { path } })).response.status, 204);

strictEqual((await client.OPTIONS("/file/tus")).response.status, 204);
const metadata = `filename ${Buffer.from(crypto.randomUUID()).toString("base64")}`;
const created = await client.POST("/file/tus", {
  params: { header: { ...tus, "upload-length": "60001", "upload-metadata": metadata } },
});
strictEqual(created.response.status, 201);
const upload = created.response.headers.get("location")!.split("/").pop()!;
const patched = await client.PATCH("/file/tus/{upload}", {
  params: { path: { upload }, header: { ...tus, "upload-offset": "0" } }, body: file, ...binary,
});
strictEqual(patched.response.headers.get("upload-offset"), "60000");
const offset = await client.HEAD("/file/tus/{upload}", { params: { path: { upload }, header: tus } });
strictEqual(offset.response.headers.get("upload-offset"), "60000");
strictEqual((await client.DELETE("/file/tus/{upload}", { params: { path: { upload }, header: tus } })).response.status, 204);

const event = { type: "generated.said", data: { from: "typescript" } };
strictEqual((await client.POST("/sockets/{sid}/messages", { params: { path: { sid } }, body: event })).data!.status, "sent");
strictEqual((await client.POST("/sockets/messages", { body: event })).data!.status, "sent");
strictEqual((await client.GET("/sockets/{sid}", { params: { path: { sid } } })).data!.state, "online");
ok((await client.GET("/sockets", { params: { query: { limit: 1000 } } })).data!.sockets.some((one) => one.sid === sid));
strictEqual((await client.DELETE("/sockets/{sid}", { params: { path: { sid } } })).response.status, 204);
for (const probe of ["/livez", "/readyz", "/version"] as const) strictEqual((await client.GET(probe)).response.status, 200);
