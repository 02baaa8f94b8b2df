/** NumPy's archive format: .npy arrays in an uncompressed ZIP file. */

export type NpyArray = {
  data: Float32Array | Float64Array | BigInt64Array;
  shape: number[];
};

const DTYPES = new Map<unknown, string>([
  [Float32Array, "<f4"],
  [Float64Array, "<f8"],
  [BigInt64Array, "<i8"],
]);

/** An .npz file of named arrays. */
export function npz(arrays: Record<string, NpyArray>): Uint8Array<ArrayBuffer> {
  return zip(Object.entries(arrays).map(([name, array]) => [`${name}.npy`, npy(array)]));
}

function npy({ data, shape }: NpyArray): Uint8Array {
  const sides = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '${DTYPES.get(data.constructor)}', 'fortran_order': False, 'shape': (${sides}), }`;
  const prefix = 10; // magic, version, length of the header
  const padding = 64 - ((prefix + text.length + 1) % 64);
  const header = `${text}${" ".repeat(padding)}\n`;
  const bytes = new Uint8Array(prefix + header.length + data.byteLength);
  bytes.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  bytes.set(new TextEncoder().encode(header), prefix);
  bytes.set(
    new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    prefix + header.length,
  );
  return bytes;
}

function zip(files: [string, Uint8Array][]): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let offset = 0;
  for (const [name, content] of files) {
    const encoded = new TextEncoder().encode(name);
    const common = [
      [20, 2], // version needed
      [0, 2], // flags
      [0, 2], // stored
      [0, 2], // time
      [0x21, 2], // date: 1980-01-01
      [crc32(content), 4],
      [content.length, 4],
      [content.length, 4],
      [encoded.length, 2],
      [0, 2], // extra
    ];
    const local = record([[0x04034b50, 4], ...common]);
    parts.push(local, encoded, content);
    const central = [[0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]];
    directory.push(record(central), encoded);
    offset += local.length + encoded.length + content.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = record([
    [0x06054b50, 4],
    [0, 2],
    [0, 2],
    [files.length, 2],
    [files.length, 2],
    [size, 4],
    [offset, 4],
    [0, 2],
  ]);
  return joined([...parts, ...directory, end]);
}

/** Little-endian numbers, each with its number of bytes. */
function record(numbers: number[][]): Uint8Array {
  const bytes = new Uint8Array(numbers.reduce((sum, [, length]) => sum + length, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [value, length] of numbers) {
    if (length === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += length;
  }
  return bytes;
}

function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, i) => {
  let value = i;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

export function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
