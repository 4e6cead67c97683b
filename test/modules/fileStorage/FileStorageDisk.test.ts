/** What only a disk and an object store can get wrong: copies, crashes in the middle, leftovers, stores that are away. */
import { afterEach, assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Redacted, type Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { fileURLToPath } from "node:url"
import * as FileStorageDisk from "../../../src/modules/fileStorage/FileStorageDisk.ts"
import * as FileStorageS3 from "../../../src/modules/fileStorage/FileStorageS3.ts"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import { FileStorage, type NewFile } from "../../../src/sdk/FileStorage.ts"
import * as FakeS3 from "../../fixtures/FakeS3.ts"
import { closeAll } from "../../fixtures/FarServer.ts"

afterEach(closeAll)

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(path.join(tmpdir(), "llm-gateway-files-"))),
  (dir) => Effect.sync(() => rmSync(dir, { recursive: true, force: true }))
)

const database = (url: string) =>
  Sql.migrate(FileStorageDisk.migrations).pipe(Layer.provideMerge(Sql.layer(Redacted.make(url))))

const newFile = (content: Uint8Array, more: Partial<NewFile> = {}): NewFile => ({
  tenant: "acme",
  purpose: "user_data",
  content: Stream.make(content),
  ...more
})

/** All files below a folder, by their paths from it. */
const below = (dir: string): ReadonlyArray<string> =>
  existsSync(dir)
    ? readdirSync(dir, { recursive: true, encoding: "utf8" }).filter((name) =>
      statSync(path.join(dir, name), { throwIfNoEntry: false })?.isFile() === true
    )
    : []

const onDisk = <A, E>(
  use: (storage: FileStorage["Service"], dir: string) => Effect.Effect<A, E, Scope.Scope>
) =>
  Effect.gen(function*() {
    const dir = yield* folder
    const layer = FileStorageDisk.layer({ dir }).pipe(Layer.provide(database("sqlite::memory:")))
    return yield* Effect.flatMap(FileStorage, (storage) => use(storage, dir)).pipe(Effect.provide(layer))
  })

/** Lets a sweep that runs beside get on until something is true. */
const until = (condition: () => boolean): Effect.Effect<void> =>
  Effect.promise(async () => {
    for (let turn = 0; turn < 100_000 && !condition(); turn++) await new Promise((resolve) => setImmediate(resolve))
    assert.isTrue(condition())
  })

/** As `until`, while time goes on: who sweeps may only then begin to wait for its next turn. */
const sweptUntil = (condition: () => boolean): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let turn = 0; turn < 200 && !condition(); turn++) {
      yield* TestClock.adjust("1 hour")
      yield* Effect.promise(async () => {
        for (let tick = 0; tick < 500 && !condition(); tick++) await new Promise((resolve) => setImmediate(resolve))
      })
    }
    assert.isTrue(condition())
  })

const content = new Uint8Array(100_000).fill(7)

describe("files on a disk", () => {
  it.effect("that are the same take their room once for each tenant, until the last one goes", () =>
    onDisk((storage, dir) =>
      Effect.gen(function*() {
        const files = yield* Effect.forEach([1, 2, 3], () => storage.put(newFile(content)), { concurrency: 3 })
        yield* storage.put(newFile(content, { tenant: "other" }))
        const inodes = (under: string): ReadonlySet<number> =>
          new Set(below(path.join(dir, under)).map((name) => statSync(path.join(dir, under, name)).ino))
        // Those that came in at the very same moment may each have brought their own.
        yield* storage.put(newFile(content))
        assert.isBelow(inodes("files").size, 5)
        assert.strictEqual(below(path.join(dir, "files")).length, 5)
        assert.deepEqual(below(path.join(dir, "uploads")), [])
        for (const { id } of (yield* storage.list({ tenant: "acme", limit: 10 })).files) {
          yield* storage.delete("acme", id)
        }
        assert.strictEqual(files.length, 3)
        assert.strictEqual(below(path.join(dir, "files")).length, 1)
        yield* sweptUntil(() => below(path.join(dir, "objects")).length === 1)
      })
    ))

  it.effect("that were left by a process that died are swept, and no others", () =>
    onDisk((storage, dir) =>
      Effect.gen(function*() {
        const kept = yield* storage.put(newFile(content))
        const [tenant = ""] = readdirSync(path.join(dir, "files"))
        const stray = path.join(dir, "files", tenant, `file-${"0".repeat(12)}${"a".repeat(20)}`)
        const upload = path.join(dir, "uploads", "left")
        const old = path.join(dir, "uploads", "old")
        for (const name of [stray, upload, old]) writeFileSync(name, "left")
        utimesSync(old, 0, 0)
        const growing = yield* Effect.forkScoped(
          storage.put(newFile(content, { content: Stream.concat(Stream.make(content), Stream.never) }))
        )
        yield* until(() => below(path.join(dir, "uploads")).length === 3)
        // The disk's own clock is the wall's, far ahead of the test's: nothing there is old yet.
        yield* sweptUntil(() => !existsSync(stray) && !existsSync(old))
        assert.isTrue(existsSync(upload))
        assert.strictEqual((yield* storage.head("acme", kept.id)).id, kept.id)
        yield* Fiber.interrupt(growing)
        assert.deepEqual(below(path.join(dir, "uploads")), ["left"])
      })
    ))

  it.live("of a process that is killed while it writes are never seen half", () =>
    Effect.gen(function*() {
      const dir = yield* folder
      const program = fileURLToPath(new URL("../../fixtures/FileWriter.ts", import.meta.url))
      const child = spawn(process.execPath, [program, dir], { stdio: ["ignore", "pipe", "inherit"] })
      const closed = once(child, "close")
      const { stdout } = child
      if (stdout === null) return yield* Effect.die("the child has no output")
      let written = 0
      yield* Effect.promise(() =>
        new Promise<void>((resolve) => {
          stdout.on("data", (line: Buffer) => {
            written += line.toString().split("\n").length - 1
            if (written >= 20) resolve()
          })
        })
      )
      child.kill("SIGKILL")
      yield* Effect.promise(() => closed)
      const layer = FileStorageDisk.layer({ dir }).pipe(
        Layer.provide(database(`sqlite:${path.join(dir, "files.db")}`))
      )
      yield* Effect.gen(function*() {
        const storage = yield* FileStorage
        const { files } = yield* storage.list({ tenant: "acme", limit: 10_000 })
        assert.isAtLeast(files.length, written)
        for (const file of files) {
          const opened = yield* storage.get("acme", file.id)
          const bytes = yield* Stream.runFold(opened.content, () => 0, (sum, chunk) => sum + chunk.length)
          assert.strictEqual(bytes, file.bytes)
        }
      }).pipe(Effect.provide(layer))
    }), 60_000)

  it.effect("cannot be kept where the folder is none, and the error names no path", () =>
    Effect.gen(function*() {
      const dir = path.join(yield* folder, "file")
      writeFileSync(dir, "")
      const layer = FileStorageDisk.layer({ dir }).pipe(Layer.provide(database("sqlite::memory:")))
      const error = yield* Effect.flip(Effect.flatMap(FileStorage, ({ put }) => put(newFile(content)))).pipe(
        Effect.provide(layer)
      )
      assert.strictEqual("code" in error ? error.code : "", "store_unavailable")
      assert.notInclude(error.message, dir)
    }))
})

describe("files in S3", () => {
  const inS3 = <A, E>(
    use: (storage: FileStorage["Service"], s3: FakeS3.FakeS3) => Effect.Effect<A, E, Scope.Scope>
  ) =>
    Effect.gen(function*() {
      const s3 = yield* Effect.promise(FakeS3.start)
      const layer = FileStorageS3.layer({
        bucket: "files",
        prefix: "gateway/",
        endpoint: s3.endpoint,
        credentials: { accessKeyId: "id", secretAccessKey: Redacted.make("secret") }
      }).pipe(Layer.provide(database("sqlite::memory:")))
      return yield* Effect.flatMap(FileStorage, (storage) => use(storage, s3)).pipe(Effect.provide(layer))
    })

  const large = new Uint8Array(20_000_000)

  it.effect("go up in parts where they are large", () =>
    inS3((storage, s3) =>
      Effect.gen(function*() {
        yield* storage.put(newFile(content))
        assert.deepEqual(s3.partSizes, [])
        yield* storage.put(newFile(large))
        const part = 8 * 1024 * 1024
        assert.deepEqual(s3.partSizes, [part, part, large.length - 2 * part])
        assert.strictEqual(s3.uploads.size, 0)
        assert.strictEqual(s3.objects.size, 2)
        for (const name of s3.objects.keys()) {
          assert.match(name, /^files\/gateway\/[0-9a-f]{32}\/file-[0-9a-f]{32}$/)
        }
      })
    ))

  it.effect("that break off leave no upload behind", () =>
    inS3((storage, s3) =>
      Effect.gen(function*() {
        const fiber = yield* Effect.forkScoped(
          storage.put(newFile(large, { content: Stream.concat(Stream.make(large), Stream.never) }))
        )
        yield* until(() => s3.partSizes.length === 2)
        assert.strictEqual(s3.uploads.size, 1)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(s3.uploads.size, 0)
        assert.strictEqual(s3.objects.size, 0)
      })
    ))

  it.effect("that have no entry, or were never completed, are swept", () =>
    inS3((storage, s3) =>
      Effect.gen(function*() {
        const kept = yield* storage.put(newFile(content))
        const [name = ""] = s3.objects.keys()
        for (const last of ["a", "b", "c"]) {
          s3.objects.set(`${name.slice(0, -32)}${"0".repeat(31)}${last}`, Buffer.from("left"))
        }
        s3.objects.set("files/gateway/other", Buffer.from("somebody else's"))
        s3.uploads.set("left", { name, initiated: "1970-01-01T00:00:00.000Z", parts: new Map() })
        yield* sweptUntil(() => s3.objects.size === 2 && s3.uploads.size === 0)
        assert.isTrue(s3.objects.has(name))
        assert.strictEqual((yield* storage.head("acme", kept.id)).id, kept.id)
      })
    ))

  it.live("are unavailable while the store is", () =>
    inS3((storage, s3) =>
      Effect.gen(function*() {
        s3.failNext("PUT")
        const error = yield* Effect.flip(storage.put(newFile(content)))
        assert.strictEqual(error.code, "store_unavailable")
        s3.failNext(undefined)
        yield* storage.put(newFile(content))
      })
    ))
})
