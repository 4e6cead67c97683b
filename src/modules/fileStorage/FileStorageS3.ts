/**
 * Files in an object store that speaks S3, with what is known of them in the database. A content becomes the object
 * `{prefix}{tenant}/{id}`; one that is larger than a part goes up in parts, one after the other, so that no more than one of
 * them is in memory.
 */
import type * as AwsSdk from "@aws-sdk/client-s3"
import { NodeStream } from "@effect/platform-node"
import { Cause, Effect, type Layer, Redacted, type Scope, Stream } from "effect"
import type { SqlClient } from "effect/sql"
import { Readable } from "node:stream"
import { type ByteRange, type FileStorage, isFileId } from "../../sdk/FileStorage.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"
import { type BlobKey, type Blobs, failedBecause, unavailable } from "./Blobs.ts"
import * as FileIndexSql from "./FileIndexSql.ts"
import * as StoredFiles from "./StoredFiles.ts"

/** Options of the Layer. */
export interface Options extends StoredFiles.FileStorageOptions {
  readonly bucket: string
  /** Before each object's name; default none. */
  readonly prefix?: string
  /** Default `us-east-1`. */
  readonly region?: string
  /** Of a server that is not Amazon's, such as `http://127.0.0.1:9000`; its buckets are then in the path. */
  readonly endpoint?: string
  /** Default: what the AWS SDK finds in the environment, in its files, or at the machine. */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: Redacted.Redacted }
  /** Bytes of one part, 5 MiB at least; default 8 MiB. */
  readonly partBytes?: number
}

type Sdk = typeof AwsSdk

const defaultPart = 8 * 1024 * 1024

const attempt = <A>(operation: string, run: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, GatewayError> =>
  Effect.catch(Effect.tryPromise(run), ({ cause }) => failedBecause(operation, cause))

/** Gathers chunks into parts of one size, and a last one that may be smaller; memory of one part is used for all of them. */
class Parts {
  readonly #size: number
  #bytes: Buffer | undefined
  #filled = 0

  constructor(size: number) {
    this.#size = size
  }

  /** What is there and no whole part yet. */
  rest(): Uint8Array {
    return this.#bytes === undefined ? new Uint8Array(0) : this.#bytes.subarray(0, this.#filled)
  }

  /** Takes as much of a chunk as fits, and gives back what does not. */
  add(chunk: Uint8Array): Uint8Array {
    this.#bytes ??= Buffer.allocUnsafe(this.#size)
    const fitting = chunk.subarray(0, this.#size - this.#filled)
    this.#bytes.set(fitting, this.#filled)
    this.#filled += fitting.length
    return chunk.subarray(fitting.length)
  }

  isFull(): boolean {
    return this.#filled === this.#size
  }

  clear(): void {
    this.#filled = 0
  }
}

const make = (sdk: Sdk, client: AwsSdk.S3Client, options: Options): Blobs => {
  const { bucket, prefix = "" } = options
  const partBytes = options.partBytes ?? defaultPart
  const nameOf = ({ file, tenant }: BlobKey): string => `${prefix}${tenant}/${file}`

  const abort = (name: string, upload: string) =>
    attempt(
      "give up an upload",
      (abortSignal) =>
        client.send(new sdk.AbortMultipartUploadCommand({ Bucket: bucket, Key: name, UploadId: upload }), {
          abortSignal
        })
    )

  /** Begins an upload in parts, which is given up with the scope unless it is completed. */
  const begin = (name: string) =>
    Effect.acquireRelease(
      attempt("begin an upload", async (abortSignal) => {
        const { UploadId } = await client.send(
          new sdk.CreateMultipartUploadCommand({ Bucket: bucket, Key: name, ContentType: "application/octet-stream" }),
          { abortSignal }
        )
        if (UploadId === undefined) throw new Error("the store names no upload")
        return { id: UploadId, tags: new Array<string | undefined>(), isComplete: false }
      }),
      (upload) => upload.isComplete ? Effect.void : Effect.ignore(abort(name, upload.id))
    )

  type Upload = Effect.Success<ReturnType<typeof begin>>

  const sendPart = (name: string, upload: Upload, body: Uint8Array) =>
    attempt("upload a part", async (abortSignal) => {
      const { ETag } = await client.send(
        new sdk.UploadPartCommand({
          Bucket: bucket,
          Key: name,
          UploadId: upload.id,
          PartNumber: upload.tags.length + 1,
          Body: body
        }),
        { abortSignal }
      )
      upload.tags.push(ETag)
    })

  const complete = (name: string, upload: Upload) =>
    attempt("complete an upload", async (abortSignal) => {
      await client.send(
        new sdk.CompleteMultipartUploadCommand({
          Bucket: bucket,
          Key: name,
          UploadId: upload.id,
          MultipartUpload: { Parts: upload.tags.map((ETag, index) => ({ ETag, PartNumber: index + 1 })) }
        }),
        { abortSignal }
      )
      upload.isComplete = true
    })

  const stage = Effect.fnUntraced(function*(
    key: BlobKey,
    content: Stream.Stream<Uint8Array, GatewayError>
  ): Effect.fn.Return<{ readonly publish: () => Effect.Effect<void, GatewayError> }, GatewayError, Scope.Scope> {
    const name = nameOf(key)
    const parts = new Parts(partBytes)
    let upload: Upload | undefined
    yield* Stream.runForEach(
      content,
      Effect.fnUntraced(function*(chunk: Uint8Array) {
        for (let left = chunk; left.length > 0;) {
          // A part goes up when more is to come: the last one goes with the rest.
          if (parts.isFull()) {
            upload ??= yield* begin(name)
            yield* sendPart(name, upload, parts.rest())
            parts.clear()
          }
          left = parts.add(left)
        }
      })
    )
    if (upload === undefined) {
      return {
        publish: () =>
          Effect.asVoid(attempt("keep a file", (abortSignal) =>
            client.send(
              new sdk.PutObjectCommand({
                Bucket: bucket,
                Key: name,
                Body: parts.rest(),
                ContentType: "application/octet-stream"
              }),
              { abortSignal }
            )))
      }
    }
    const begun = upload
    yield* sendPart(name, begun, parts.rest())
    return { publish: () => complete(name, begun) }
  })

  const openObject = Effect.fnUntraced(function*(key: BlobKey, range: ByteRange | undefined) {
    const { Body: body } = yield* attempt("read a file", (abortSignal) =>
      client.send(
        new sdk.GetObjectCommand({
          Bucket: bucket,
          Key: nameOf(key),
          ...(range === undefined ? {} : { Range: `bytes=${range.start}-${range.end}` })
        }),
        { abortSignal }
      ))
    if (!(body instanceof Readable)) return yield* failedBecause("read a file", { code: "no stream" })
    return NodeStream.fromReadable({ evaluate: () => body, onError: () => unavailable, chunkSize: 4 })
  })

  const keyOf = (name: string | undefined): ReadonlyArray<BlobKey> => {
    const [tenant, file, ...rest] = (name ?? "").slice(prefix.length).split("/")
    return tenant !== undefined && file !== undefined && rest.length === 0 && isFileId(file) ? [{ tenant, file }] : []
  }

  async function* pages(): AsyncGenerator<ReadonlyArray<BlobKey>> {
    let from: string | undefined
    do {
      const page = await client.send(
        new sdk.ListObjectsV2Command({
          Bucket: bucket,
          Prefix: prefix,
          ...(from === undefined ? {} : { ContinuationToken: from })
        })
      )
      yield (page.Contents ?? []).flatMap(({ Key }) => keyOf(Key))
      from = page.IsTruncated === true ? page.NextContinuationToken : undefined
    } while (from !== undefined)
  }

  const removeLeftovers = Effect.fnUntraced(function*(before: number) {
    const { Uploads } = yield* attempt(
      "list uploads",
      (abortSignal) =>
        client.send(new sdk.ListMultipartUploadsCommand({ Bucket: bucket, Prefix: prefix }), { abortSignal })
    )
    for (const { Initiated, Key, UploadId } of Uploads ?? []) {
      if (Key === undefined || UploadId === undefined || keyOf(Key).length === 0) continue
      if (Initiated !== undefined && Initiated.getTime() < before) yield* abort(Key, UploadId)
    }
  })

  return {
    stage,
    // The object is asked for by each run, so that a stream that nobody runs holds no connection.
    read: (key, range) => Effect.succeed(Stream.unwrap(openObject(key, range))),
    remove: (key) =>
      Effect.asVoid(
        attempt("delete a file", (abortSignal) =>
          client.send(new sdk.DeleteObjectCommand({ Bucket: bucket, Key: nameOf(key) }), { abortSignal }))
      ),
    pages: Stream.suspend(() => Stream.fromAsyncIterable(pages(), (cause) => new Cause.UnknownError(cause))).pipe(
      Stream.catch(({ cause }) => Stream.fromEffect(failedBecause("walk through its files", cause)))
    ),
    removeLeftovers
  }
}

const open = Effect.fnUntraced(function*(options: Options) {
  const { credentials, endpoint, region } = options
  const sdk = yield* Effect.promise(() => import("@aws-sdk/client-s3"))
  const client = yield* Effect.acquireRelease(
    Effect.sync(() =>
      new sdk.S3Client({
        region: region ?? "us-east-1",
        // What other servers than Amazon's know of S3 has no checksums in trailers.
        requestChecksumCalculation: "WHEN_REQUIRED",
        responseChecksumValidation: "WHEN_REQUIRED",
        ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
        ...(credentials === undefined ? {} : {
          credentials: {
            accessKeyId: credentials.accessKeyId,
            secretAccessKey: Redacted.value(credentials.secretAccessKey)
          }
        })
      })
    ),
    (client) => Effect.sync(() => client.destroy())
  )
  return make(sdk, client, options)
})

/** Files in a bucket; the database needs the tables of `FileIndexSql.migrations`. Fails where it cannot be used. */
export const layer = (options: Options): Layer.Layer<FileStorage, GatewayError, SqlClient.SqlClient> =>
  StoredFiles.layer(open(options), FileIndexSql.make, options)

export { migrations } from "./FileIndexSql.ts"
