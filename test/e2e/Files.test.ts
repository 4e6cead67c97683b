/** Files over HTTP, with OpenAI's own SDK and without: uploaded, looked at, fetched in part and whole, signed, deleted. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { createHash, hash, randomBytes } from "node:crypto"
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import path from "node:path"
import OpenAI, { BadRequestError, NotFoundError, toFile } from "openai"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed } from "../fixtures/Script.ts"

const sha256 = (secret: string): string => hash("sha256", secret, "hex")

let folder: string
let gateway: RunningGateway
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "llm-gateway-files-"))
  gateway = await startGateway(`
auth:
  mode: keys
  keys:
    - { id: a, sha256: ${sha256("key-a")}, tenant: a }
    - { id: b, sha256: ${sha256("key-b")}, tenant: b }
tenants: { a: {}, b: {} }
server: { max_body: 1MB }
providers: { sandbox: { type: sandbox } }
storage: { sql: "sqlite::memory:", files: { dir: "${folder}", max_size: 2MB, quota: 20MB } }
`)
})
afterAll(async () => {
  await gateway.close()
  rmSync(folder, { recursive: true })
})

const client = (key = "key-a") => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: key, maxRetries: 0 })
const headers = (key = "key-a") => ({ authorization: `Bearer ${key}` })
const files = "/llm-gateway/v1/files"
const object = (value: unknown): Json => isJson(value) ? value : {}

const png = Buffer.from("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489", "hex")

const form = (...parts: ReadonlyArray<readonly [name: string, value: string | Blob, filename?: string]>): FormData => {
  const made = new FormData()
  for (const [name, value, filename] of parts) {
    if (typeof value === "string") made.append(name, value)
    else made.append(name, value, filename)
  }
  return made
}

const upload = async (body: FormData | string, key = "key-a", more: Readonly<Record<string, string>> = {}) => {
  const response = await fetch(gateway.url + files, { method: "POST", headers: { ...headers(key), ...more }, body })
  return { status: response.status, body: object(parsed(await response.text())) }
}

const uploaded = async (content: Uint8Array<ArrayBuffer>, filename = "a.bin", key = "key-a"): Promise<Json> => {
  const { body, status } = await upload(form(["purpose", "user_data"], ["file", new Blob([content]), filename]), key)
  assert.strictEqual(status, 201, JSON.stringify(body))
  return body
}

/** Bytes and files under the folder of contents. */
const kept = (): number =>
  readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) =>
    statSync(path.join(folder, name), { throwIfNoEntry: false })?.isFile() === true
  ).length

describe("with OpenAI's SDK", () => {
  it("a file is uploaded, listed, looked at, fetched and deleted", async () => {
    const { files: api } = client()
    const text = "{\"custom_id\": \"1\"}\n".repeat(1_000)
    const made = await api.create({ file: await toFile(Buffer.from(text), "batch.jsonl"), purpose: "batch" })
    assert.deepInclude(made, { object: "file", bytes: text.length, filename: "batch.jsonl", purpose: "batch" })
    assert.deepStrictEqual(await api.retrieve(made.id), made)
    const listed = await api.list({ purpose: "batch" })
    assert.deepStrictEqual(listed.data, [made])
    assert.strictEqual(await (await api.content(made.id)).text(), text)
    assert.deepStrictEqual(await api.delete(made.id), { id: made.id, object: "file", deleted: true })
    assert.instanceOf(await api.retrieve(made.id).catch((error: unknown) => error), NotFoundError)
  })

  it("many are listed page by page", async () => {
    const { files: api } = client()
    const ids: Array<string> = []
    for (let index = 0; index < 5; index++) {
      ids.push((await api.create({ file: await toFile(Buffer.from([index]), `${index}`), purpose: "vision" })).id)
    }
    const found: Array<string> = []
    for await (const file of api.list({ purpose: "vision", limit: 2, order: "asc" })) found.push(file.id)
    assert.deepStrictEqual(found, ids)
  })

  it("an expiry is taken, and one that cannot be is refused", async () => {
    const { files: api } = client()
    const file = () => toFile(Buffer.from("x"), "x")
    const made = await api.create({
      file: await file(),
      purpose: "user_data",
      expires_after: { anchor: "created_at", seconds: 3_600 }
    })
    assert.strictEqual(Number(made.expires_at) - made.created_at, 3_600)
    const error = await api.create({
      file: await file(),
      purpose: "user_data",
      expires_after: { anchor: "created_at", seconds: 5 }
    }).catch((error: unknown) => error)
    assert.instanceOf(error, BadRequestError)
  })

  it("another tenant's file is not there", async () => {
    const { id } = await client().files.create({ file: await toFile(Buffer.from("x"), "x"), purpose: "user_data" })
    const { files: others } = client("key-b")
    for (const ask of [() => others.retrieve(id), () => others.content(id), () => others.delete(id)]) {
      assert.instanceOf(await ask().catch((error: unknown) => error), NotFoundError)
    }
    assert.isFalse((await others.list()).data.some((file) => file.id === id))
    assert.strictEqual((await client().files.retrieve(id)).id, id)
  })
})

describe("an upload", () => {
  it("is what its content shows, whatever its name and type say, and has a name without a path", async () => {
    const { body, status } = await upload(
      form(["file", new Blob([png], { type: "application/pdf" }), "../../etc/pass\\wd\u202egpj.exe"])
    )
    assert.strictEqual(status, 201)
    assert.deepInclude(body, {
      content_type: "image/png",
      bytes: png.length,
      purpose: "user_data",
      filename: "wdgpj.exe"
    })
    assert.strictEqual(body["sha256"], createHash("sha256").update(png).digest("hex"))
    assert.strictEqual(body["url"], `${files}/${String(body["id"])}`)
  })

  it("may have its fields before and behind the file", async () => {
    const file = ["file", new Blob(["x"]), "x"] as const
    for (const parts of [[["purpose", "vision"], file], [file, ["purpose", "vision"]]] as const) {
      assert.strictEqual((await upload(form(...parts))).body["purpose"], "vision")
    }
  })

  it.each([
    ["no file", form(["purpose", "vision"]), "file"],
    ["two files", form(["file", new Blob(["x"]), "x"], ["file", new Blob(["y"]), "y"]), "file"],
    ["a file elsewhere", form(["image", new Blob(["x"]), "x"]), "image"],
    ["a purpose that is none", form(["file", new Blob(["x"]), "x"], ["purpose", "A B"]), "purpose"],
    ["no form", "{}", "content-type"]
  ])("of %s is refused, and nothing is kept", async (_, body, field) => {
    const before = kept()
    const answer = await upload(body)
    assert.strictEqual(answer.status, 400, JSON.stringify(answer.body))
    assert.include(JSON.stringify(answer.body), field)
    assert.strictEqual(kept(), before)
  })

  it("that is too large, or over the quota, is refused, and nothing is kept", async () => {
    const before = kept()
    const { body, status } = await upload(form(["file", new Blob([new Uint8Array(2_000_001)]), "x"]))
    assert.strictEqual(status, 413, JSON.stringify(body))
    assert.deepInclude(object(body["context"]), { max_bytes: 2_000_000 })
    assert.strictEqual(kept(), before)
    const made: Array<string> = []
    let last = 201
    for (let index = 0; index < 12 && last === 201; index++) {
      const answer = await upload(form(["file", new Blob([randomBytes(1_900_000)]), "x"]), "key-b")
      last = answer.status
      if (last === 201) made.push(String(answer.body["id"]))
    }
    assert.strictEqual(last, 413)
    assert.isAtLeast(made.length, 9)
    for (const id of made) await fetch(`${gateway.url}${files}/${id}`, { method: "DELETE", headers: headers("key-b") })
  })

  it("may be larger than a body in JSON", async () => {
    const { body, status } = await upload(form(["file", new Blob([new Uint8Array(1_500_000)]), "x"]))
    assert.strictEqual(status, 201, JSON.stringify(body))
    await fetch(`${gateway.url}${files}/${String(body["id"])}`, { method: "DELETE", headers: headers() })
  })

  it("whose sender goes away leaves nothing", async () => {
    const before = kept()
    const comesTo = async (isThere: () => boolean) => {
      const deadline = performance.now() + 5_000
      while (!isThere() && performance.now() < deadline) await new Promise((resolve) => setImmediate(resolve))
      assert.isTrue(isThere())
    }
    const { port } = new URL(gateway.url)
    const socket = connect(Number(port), "127.0.0.1")
    socket.write(
      `POST ${files} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key-a\r\ncontent-length: 1000000\r\n` +
        "content-type: multipart/form-data; boundary=b\r\n\r\n" +
        "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n" + "abc".repeat(50_000)
    )
    await comesTo(() => kept() > before)
    socket.destroy()
    await comesTo(() => kept() === before)
    assert.strictEqual((await fetch(gateway.url + files, { headers: headers() })).status, 200)
  })
})

describe("a content", () => {
  const content = Uint8Array.from({ length: 1_000 }, (_, index) => index % 251)
  const ask = (id: unknown, more: Readonly<Record<string, string>> = {}, method = "GET") =>
    fetch(`${gateway.url}${files}/${String(id)}`, { method, headers: { ...headers(), ...more } })

  it("comes with headers that keep browsers from running it", async () => {
    const { id } = await uploaded(new TextEncoder().encode("<!doctype html><script>alert(1)</script>"), "ä.html")
    const response = await ask(id)
    assert.strictEqual(response.headers.get("x-content-type-options"), "nosniff")
    assert.include(response.headers.get("content-security-policy"), "sandbox")
    const disposition = response.headers.get("content-disposition") ?? ""
    assert.match(disposition, /^attachment; filename="_.html"; filename\*=UTF-8''%C3%A4.html$/)
    const picture = await uploaded(Uint8Array.from(png), "p.png")
    assert.match((await ask(picture["id"])).headers.get("content-disposition") ?? "", /^inline/)
  })

  it.each(
    [
      ["bytes=0-9", 206, [0, 10]],
      ["bytes=990-", 206, [990, 1_000]],
      ["bytes=-10", 206, [990, 1_000]],
      ["bytes=990-5000", 206, [990, 1_000]],
      ["bytes=0-0,5-6", 200, [0, 1_000]],
      ["bytes=9-2", 200, [0, 1_000]],
      ["items=0-9", 200, [0, 1_000]],
      ["bytes=1000-", 416, [0, 0]],
      ["bytes=-0", 416, [0, 0]]
    ] as const
  )("in the range %s: %i", async (range, status, [start, end]) => {
    const { id } = await uploaded(content)
    const response = await ask(id, { range })
    assert.strictEqual(response.status, status)
    const bytes = new Uint8Array(await response.arrayBuffer())
    assert.deepStrictEqual(bytes, content.slice(start, end))
    if (status === 206) assert.strictEqual(response.headers.get("content-range"), `bytes ${start}-${end - 1}/1000`)
    if (status === 416) assert.strictEqual(response.headers.get("content-range"), "bytes */1000")
  })

  it("is not sent to who has it", async () => {
    const { id } = await uploaded(content)
    const etag = (await ask(id)).headers.get("etag") ?? ""
    assert.strictEqual((await ask(id, { "if-none-match": etag })).status, 304)
    assert.strictEqual((await ask(id, { range: "bytes=0-9", "if-range": "\"another\"" })).status, 200)
    const head = await ask(id, {}, "HEAD")
    assert.deepStrictEqual([head.status, head.headers.get("content-length")], [200, "1000"])
  })

  it("that is empty is so", async () => {
    const { id } = await uploaded(new Uint8Array(0))
    const response = await ask(id)
    assert.deepStrictEqual([response.status, await response.text()], [200, ""])
  })

  it("takes a key, or a signed address, which ends", async () => {
    const { id } = await uploaded(content)
    const address = `${files}/${String(id)}`
    assert.strictEqual((await fetch(gateway.url + address)).status, 401)
    const signed = await fetch(`${gateway.url}${address}/sign`, {
      method: "POST",
      headers: { ...headers(), "content-type": "application/json" },
      body: "{\"expires_in\": 60}"
    })
    const url = String(object(await signed.json())["url"])
    const answer = await fetch(gateway.url + url)
    assert.strictEqual(answer.status, 200)
    assert.deepStrictEqual(new Uint8Array(await answer.arrayBuffer()), content)
    for (const wrong of [`${address}?token=`, `${url}x`, url.replace(/token=\d/, "token=9")]) {
      assert.strictEqual((await fetch(gateway.url + wrong)).status, 404, wrong)
    }
    const foreign = await fetch(`${gateway.url}${address}/sign`, { method: "POST", headers: headers("key-b") })
    assert.strictEqual(foreign.status, 404)
    const tooLong = await fetch(`${gateway.url}${address}/sign`, {
      method: "POST",
      headers: { ...headers(), "content-type": "application/json" },
      body: "{\"expires_in\": 99999999}"
    })
    assert.strictEqual(tooLong.status, 400)
  })

  it("has a signed address for as long as was asked for, or none", async () => {
    const { id } = await uploaded(content)
    const signing = (body: string | ReadableStream, more: RequestInit = {}) =>
      fetch(`${gateway.url}${files}/${String(id)}/sign`, { method: "POST", headers: headers(), body, ...more })
    const asked = Date.now()
    // A body of no told length, which goes out in chunks.
    const chunked = await signing(new Blob(["{\"expires_in\": 60}"]).stream(), { duplex: "half" })
    const expiry = Date.parse(String(object(await chunked.json())["expires_at"]))
    assert.isAtMost(expiry, asked + 120_000)
    for (const wrong of ["{\"expires\": 60}", "{\"expires_in\": 1.5}", "{\"expires_in\": \"60\"}", "[]", "60"]) {
      assert.strictEqual((await signing(wrong)).status, 400, wrong)
    }
  })

  it.each(["purpose=%00", "purpose=a%20b", "purpose=", `purpose=${"a".repeat(200)}`])(
    "is not listed by %s",
    async (query) => {
      assert.strictEqual((await fetch(`${gateway.url}${files}?${query}`, { headers: headers() })).status, 400)
    }
  )

  it.each(["file-1", "..%2f..%2fetc%2fpasswd", `file-${"0".repeat(32)}`, "%00"])("of %s is not there", async (id) => {
    assert.strictEqual((await ask(id)).status, 404)
  })
})
