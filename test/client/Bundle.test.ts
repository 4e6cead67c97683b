/** What the client brings along: no server, no store, no provider, and not much of anything else. */
import { assert, describe, it } from "@effect/vitest"
import { build } from "esbuild"
import path from "node:path"

const entry = path.resolve(import.meta.dirname, "../../src/client/index.ts")

/** Bytes of the client and of all of `effect` that it needs, minified; a browser gets about a third of it, compressed. */
const most = 900_000

describe("the client's bundle", () => {
  it("holds the sdk and the client alone, needs nothing of Node, and stays small", async () => {
    const { metafile, outputFiles } = await build({
      entryPoints: [entry],
      bundle: true,
      minify: true,
      format: "esm",
      platform: "browser",
      write: false,
      metafile: true,
      logLevel: "silent"
    })
    const own = Object.keys(metafile.inputs).filter((input) => !input.includes("node_modules"))
    assert.isAbove(own.length, 10)
    for (const input of own) assert.match(input, /src\/(?:client|sdk)\//)
    const packages = Object.keys(metafile.inputs).flatMap((input) =>
      /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(input)?.[1] ?? []
    )
    const bytes = outputFiles[0]?.contents.length ?? 0
    assert.isBelow(bytes, most, `it has ${bytes} bytes`)
    assert.notInclude(packages, "undici")
    for (const name of new Set(packages)) assert.notMatch(name, /^@effect\/(?:platform|sql)|^ws$|^redis$|^node:/)
  })
})
