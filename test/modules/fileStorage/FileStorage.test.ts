/** What any storage of files must do, whatever it keeps them in. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Layer, Redacted, type Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { createHash, randomBytes } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import * as FileStorageDisk from "../../../src/modules/fileStorage/FileStorageDisk.ts"
import * as FileStorageMemory from "../../../src/modules/fileStorage/FileStorageMemory.ts"
import * as FileStorageS3 from "../../../src/modules/fileStorage/FileStorageS3.ts"
import type { FileStorageOptions } from "../../../src/modules/fileStorage/StoredFiles.ts"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import { type FileInfo, FileStorage, type NewFile } from "../../../src/sdk/FileStorage.ts"
import { fail, type GatewayError, ValidationError } from "../../../src/sdk/GatewayError.ts"
import * as FakeS3 from "../../fixtures/FakeS3.ts"
import { closeAll } from "../../fixtures/FarServer.ts"
import { type SqlDatabase, sqlDatabases } from "../../fixtures/Stores.ts"

type Storage = Layer.Layer<FileStorage, unknown>

interface Kind {
  readonly name: string
  readonly isMissing: boolean
  readonly open: (options: FileStorageOptions) => Effect.Effect<Storage, unknown, Scope.Scope>
}

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(path.join(tmpdir(), "llm-gateway-files-"))),
  (dir) => Effect.sync(() => rmSync(dir, { recursive: true, force: true }))
)

const tables = (database: SqlDatabase) =>
  Effect.map(
    database.fresh,
    (url) => Sql.migrate(FileStorageDisk.migrations).pipe(Layer.provideMerge(Sql.layer(Redacted.make(url))))
  )

const onDisk = (database: SqlDatabase): Kind => ({
  name: `on a disk, with ${database.name}`,
  isMissing: database.isMissing,
  open: (options) =>
    Effect.gen(function*() {
      const sql = yield* tables(database)
      return FileStorageDisk.layer({ dir: yield* folder, ...options }).pipe(Layer.provide(sql))
    })
})

const inMemory: Kind = {
  name: "in memory",
  isMissing: false,
  open: (options) => Effect.succeed(FileStorageMemory.layer(options))
}

const sqliteInMemory = sqlDatabases.find(({ name }) => name === "SQLite in memory")

const inS3: Kind = {
  name: "in S3",
  isMissing: false,
  open: (options) =>
    Effect.gen(function*() {
      const s3 = yield* Effect.acquireRelease(
        Effect.promise(FakeS3.start),
        () => Effect.promise(closeAll)
      )
      const sql = sqliteInMemory === undefined ? yield* Effect.die("no SQLite") : yield* tables(sqliteInMemory)
      return FileStorageS3.layer({
        bucket: "files",
        prefix: "gateway/",
        endpoint: s3.endpoint,
        credentials: { accessKeyId: "id", secretAccessKey: Redacted.make("secret") },
        ...options
      }).pipe(Layer.provide(sql))
    })
}

const png = Uint8Array.from(Buffer.from("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489", "hex"))

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text)

const newFile = (content: Uint8Array, more: Partial<NewFile> = {}): NewFile => ({
  tenant: "acme",
  purpose: "user_data",
  content: Stream.make(content),
  ...more
})

const collect = (content: Stream.Stream<Uint8Array, GatewayError>): Effect.Effect<Buffer, GatewayError> =>
  Effect.map(Stream.runCollect(content), (chunks) => Buffer.concat(chunks))

const codeOf = <A, R>(effect: Effect.Effect<A, GatewayError, R>): Effect.Effect<string, A, R> =>
  Effect.map(Effect.flip(effect), (error) => error.code)

const ids = (files: ReadonlyArray<FileInfo>): ReadonlyArray<string> => files.map(({ id }) => id)

const fileDatabases = sqlDatabases.filter(({ name }) => name !== "SQLite in memory")

for (const { isMissing, name, open } of [inMemory, ...fileDatabases.map(onDisk), inS3]) {
  const using = <A, E>(
    use: (storage: FileStorage["Service"]) => Effect.Effect<A, E, Scope.Scope>,
    options: FileStorageOptions = {}
  ) =>
    Effect.gen(function*() {
      const layer = yield* open(options)
      return yield* Effect.flatMap(FileStorage, use).pipe(Effect.provide(layer))
    })

  describe.skipIf(isMissing)(`files ${name}`, () => {
    it.effect("come back as they went in, whole and in ranges", () =>
      using((storage) =>
        Effect.gen(function*() {
          const content = randomBytes(20_000_000)
          const file = yield* storage.put(newFile(content, {
            filename: "some.bin",
            content: Stream.fromIterable(
              Array.from({ length: 40 }, (_, at) => content.subarray(at * 500_000, (at + 1) * 500_000))
            )
          }))
          assert.strictEqual(file.bytes, content.length)
          assert.strictEqual(file.sha256, createHash("sha256").update(content).digest("hex"))
          assert.strictEqual(file.filename, "some.bin")
          assert.match(file.id, /^file-[0-9a-f]{32}$/)
          assert.deepEqual(yield* storage.head("acme", file.id), file)
          const opened = yield* storage.get("acme", file.id)
          assert.deepEqual(opened.info, file)
          // As often as one likes.
          for (let run = 0; run < 2; run++) assert.isTrue(content.equals(yield* collect(opened.content)))
          for (
            const [start, end] of [[0, 0], [5, 9], [content.length - 1, content.length - 1], [
              10,
              content.length + 5
            ]] as const
          ) {
            const range = yield* storage.get("acme", file.id, { start, end })
            assert.isTrue(content.subarray(start, end + 1).equals(yield* collect(range.content)), `${start}-${end}`)
          }
        })
      ))

    it.effect("may be empty", () =>
      using((storage) =>
        Effect.gen(function*() {
          const file = yield* storage.put(newFile(new Uint8Array(0)))
          assert.strictEqual(file.bytes, 0)
          assert.strictEqual((yield* collect((yield* storage.get("acme", file.id)).content)).length, 0)
        })
      ))

    it.effect("are what their content is", () =>
      using((storage) =>
        Effect.gen(function*() {
          const file = yield* storage.put(newFile(png, { filename: "invoice.pdf" }))
          assert.strictEqual(file.contentType, "image/png")
          assert.strictEqual(file.filename, "invoice.pdf")
          const other = yield* storage.put(newFile(png))
          assert.strictEqual(other.filename, "file.png")
        })
      ))

    it.effect("are their tenant's alone", () =>
      using((storage) =>
        Effect.gen(function*() {
          const file = yield* storage.put(newFile(png))
          for (const id of [file.id, "file-1", `file-${"0".repeat(32)}`, "file-\0", "../../etc/passwd", ""]) {
            assert.strictEqual(yield* codeOf(storage.head("other", id)), "file_not_found")
            assert.strictEqual(yield* codeOf(storage.get("other", id)), "file_not_found")
            assert.strictEqual(yield* codeOf(storage.delete("other", id)), "file_not_found")
            assert.strictEqual(yield* codeOf(storage.sign("other", id, 1000)), "file_not_found")
          }
          assert.deepEqual(yield* storage.list({ tenant: "other", limit: 10 }), { files: [], hasMore: false })
          assert.deepEqual(yield* storage.head("acme", file.id), file)
          yield* storage.delete("acme", file.id)
          assert.strictEqual(yield* codeOf(storage.head("acme", file.id)), "file_not_found")
          assert.strictEqual(yield* codeOf(storage.get("acme", file.id)), "file_not_found")
          assert.strictEqual(yield* codeOf(storage.delete("acme", file.id)), "file_not_found")
        })
      ))

    it.effect("are listed in pages, either way, by purpose", () =>
      using((storage) =>
        Effect.gen(function*() {
          const made: Array<FileInfo> = []
          for (let index = 0; index < 7; index++) {
            yield* TestClock.adjust("1 second")
            made.push(
              yield* storage.put(newFile(bytesOf(`${index}`), { purpose: index % 2 === 0 ? "batch" : "vision" }))
            )
          }
          for (const order of ["asc", "desc"] as const) {
            const seen: Array<FileInfo> = []
            for (;;) {
              const after = seen.at(-1)?.id
              const page = yield* storage.list({
                tenant: "acme",
                limit: 3,
                order,
                ...(after === undefined ? {} : { after })
              })
              seen.push(...page.files)
              if (!page.hasMore) break
              assert.strictEqual(page.files.length, 3)
            }
            assert.deepEqual(ids(seen), ids(order === "asc" ? made : made.toReversed()))
          }
          const batches = yield* storage.list({ tenant: "acme", limit: 4, purpose: "batch" })
          assert.isFalse(batches.hasMore)
          assert.deepEqual(ids(batches.files), ids(made.filter(({ purpose }) => purpose === "batch").toReversed()))
          assert.strictEqual(
            yield* codeOf(storage.list({ tenant: "acme", limit: 4, after: "\0" })),
            "file_not_found"
          )
        })
      ))

    it.effect("that are too large are refused while they come, and leave nothing", () =>
      using((storage) =>
        Effect.gen(function*() {
          let pulled = 0
          const endless = Stream.forever(Stream.fromEffect(Effect.sync(() => {
            pulled++
            return new Uint8Array(1000)
          })))
          for (const [maxBytes, most] of [[undefined, 100_000], [5_000, 5_000]] as const) {
            pulled = 0
            const error = yield* Effect.flip(storage.put(newFile(png, {
              content: endless,
              ...(maxBytes === undefined ? {} : { maxBytes })
            })))
            assert.strictEqual(error.code, "payload_too_large")
            assert.include(error.message, String(most))
            assert.isAtMost(pulled, most / 1000 + 1)
          }
          assert.deepEqual((yield* storage.list({ tenant: "acme", limit: 10 })).files, [])
          // None of it counts against the quota.
          yield* storage.put(newFile(new Uint8Array(100_000)))
        }), { maxBytes: 100_000, quotaBytes: 100_000 }))

    it.effect("of a tenant never take more than its quota, whatever comes at once", () =>
      using((storage) =>
        Effect.gen(function*() {
          const puts = Array.from({ length: 20 }, () => Effect.exit(storage.put(newFile(randomBytes(1000)))))
          const exits = yield* Effect.all(puts, { concurrency: "unbounded" })
          assert.strictEqual(exits.filter(Exit.isSuccess).length, 5)
          const error = yield* Effect.flip(storage.put(newFile(randomBytes(1000))))
          assert.strictEqual(error.code, "payload_too_large")
          assert.include(error.message, "delete files")
          // Another tenant has its own.
          yield* storage.put(newFile(randomBytes(1000), { tenant: "other" }))
          const [first] = (yield* storage.list({ tenant: "acme", limit: 10 })).files
          yield* storage.delete("acme", first?.id ?? "")
          yield* storage.put(newFile(randomBytes(1000)))
          assert.strictEqual((yield* storage.list({ tenant: "acme", limit: 10 })).files.length, 5)
        }), { quotaBytes: 5_500 }))

    it.effect("that break off leave nothing, and the failure is the source's", () =>
      using((storage) =>
        Effect.gen(function*() {
          const broken = fail(new ValidationError({ message: "the body could not be read" }))
          const content = Stream.concat(Stream.make(randomBytes(6_000_000)), Stream.fail(broken))
          const error = yield* Effect.flip(storage.put(newFile(png, { content })))
          assert.strictEqual(error.message, "the body could not be read")
          const fiber = yield* Effect.forkScoped(
            storage.put(newFile(png, { content: Stream.concat(Stream.make(png), Stream.never) }))
          )
          yield* Effect.yieldNow
          yield* Fiber.interrupt(fiber)
          assert.deepEqual((yield* storage.list({ tenant: "acme", limit: 10 })).files, [])
        }), { maxBytes: 10_000_000 }))

    it.effect("expire, and give their room back", () =>
      using((storage) =>
        Effect.gen(function*() {
          const short = yield* storage.put(newFile(new Uint8Array(600), { ttlMs: 60_000 }))
          const long = yield* storage.put(newFile(new Uint8Array(300), { ttlMs: 99_999_999_999 }))
          assert.strictEqual(long.expiresAt, long.createdAt + 3_600_000)
          yield* TestClock.adjust("59 seconds")
          yield* storage.head("acme", short.id)
          yield* TestClock.adjust("1 second")
          assert.strictEqual(yield* codeOf(storage.head("acme", short.id)), "file_not_found")
          assert.deepEqual(ids((yield* storage.list({ tenant: "acme", limit: 10 })).files), [long.id])
          // The sweep runs beside; its room is there again when it has passed.
          yield* TestClock.adjust("1 minute")
          yield* storage.put(newFile(new Uint8Array(700))).pipe(
            Effect.tapError(() => Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))),
            Effect.retry({ times: 2_000 })
          )
        }), { ttlMs: 3_600_000, quotaBytes: 1_000 }))

    it.effect("are handed out by signatures that are for one file and a while", () =>
      using((storage) =>
        Effect.gen(function*() {
          const file = yield* storage.put(newFile(png))
          const other = yield* storage.put(newFile(png))
          const { expiresAt, token } = yield* storage.sign("acme", file.id, 60_000)
          assert.strictEqual(expiresAt, (yield* Clock.currentTimeMillis) + 60_000)
          assert.deepEqual(yield* storage.verify(file.id, token), file)
          const [expiry = "", signature = ""] = token.split(/-(.*)/s)
          const forged = [
            "",
            "-",
            token.slice(0, -1),
            `${token}A`,
            `${Number(expiry) + 60}-${signature}`,
            `${expiry}.0-${signature}`,
            `0${token}`,
            signature,
            (yield* storage.sign("acme", other.id, 60_000)).token
          ]
          for (const wrong of forged) {
            assert.strictEqual(yield* codeOf(storage.verify(file.id, wrong)), "file_not_found", wrong)
          }
          yield* TestClock.adjust("60 seconds")
          assert.strictEqual(yield* codeOf(storage.verify(file.id, token)), "file_not_found")
          // Never longer than the file itself.
          assert.strictEqual((yield* storage.sign("acme", file.id, 99_999_999)).expiresAt, file.expiresAt)
        }), { ttlMs: 3_600_000 }))
  })
}
