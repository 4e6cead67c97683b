/** Starts `SqlChild.ts`. */
import { Effect, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

const program = fileURLToPath(new URL("../../fixtures/SqlChild.ts", import.meta.url))

/** A process that runs. */
export interface Child {
  readonly process: ChildProcess
  /** The next line that it says, or undefined at its end. */
  readonly line: Effect.Effect<string | undefined>
  /** Its exit code, once it has ended and all it said has been read. */
  readonly ended: Effect.Effect<number | null>
}

/** Starts `node SqlChild.ts <args>`; whatever is left of it at the end of the scope is killed. */
export const startChild = (...args: ReadonlyArray<string>): Effect.Effect<Child, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => spawn(process.execPath, [program, ...args], { stdio: ["pipe", "pipe", "inherit"] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  ).pipe(Effect.map((child): Child => {
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const exit = once(child, "exit")
    return {
      process: child,
      line: Effect.promise(async () => {
        const { done, value } = await lines.next()
        return done === true ? undefined : value
      }),
      ended: Effect.promise(async () => {
        await exit
        return child.exitCode
      })
    }
  }))
