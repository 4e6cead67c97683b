/**
 * Tells when a configuration file has changed. It is looked at once a second rather than watched: notices of changes do not
 * cross network mounts and bind mounts, and editors and Kubernetes replace a file by another one, which a watch on the old one
 * misses.
 */
import { Effect, FileSystem, Option } from "effect"
import { hash } from "node:crypto"

/** Between two looks. */
const interval = "1 second"

/**
 * Runs `changed` each time that the file holds something else than before and has held it for a second, so that what is
 * being written is not read half. A file that is gone is waited for.
 */
export const follow = Effect.fnUntraced(
  function*<R>(path: string, changed: Effect.Effect<void, never, R>): Effect.fn.Return<
    never,
    never,
    R | FileSystem.FileSystem
  > {
    const fs = yield* FileSystem.FileSystem
    /** The file itself behind any links, and when it was written. */
    const stamp = Effect.option(
      Effect.map(
        fs.stat(path),
        ({ ino, mtime, size }) =>
          `${Option.getOrElse(ino, () => 0)}:${Option.getOrElse(mtime, () => new Date(0)).getTime()}:${size}`
      )
    )
    const content = Effect.option(Effect.map(fs.readFile(path), (bytes) => hash("sha256", bytes, "hex")))
    let seen = yield* stamp
    let known = yield* content
    let isSettled = true
    return yield* Effect.forever(Effect.gen(function*() {
      yield* Effect.sleep(interval)
      const now = yield* stamp
      if (Option.isNone(now)) return
      if (!Option.contains(seen, now.value)) {
        seen = now
        isSettled = false
        return
      }
      if (isSettled) return
      isSettled = true
      const read = yield* content
      if (Option.isNone(read) || Option.contains(known, read.value)) return
      known = read
      yield* changed
    }))
  }
)
