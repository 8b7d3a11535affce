/**
 * Images for the model: small ones as data URLs in the message, which may hold 200,000 characters of them, larger ones
 * uploaded; what is too large for that, or is of a type that is not taken, is drawn anew as a smaller JPEG.
 */

const MAX_CHARACTERS = 200_000;
const MAX_UPLOADED = 2 * 1024 * 1024; // bytes, of all uploads of a message
export const MAX_IMAGES = 8;
const AS_THEY_ARE = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const SIDES = [1568, 1024, 768, 512, 320, 200]; // px
const QUALITIES = [0.85, 0.6];

const shown = new Map(); // what this page has uploaded, by its upload_id: the API gives no image back

/** Where the page finds an image of a message; null if it is an upload of before the page was loaded. */
export function sourceOf({ url, upload_id: uploadId }) {
  return url ?? shown.get(uploadId) ?? null;
}

/**
 * The `media` of a message with these files; `upload` is that of the API's client. Throws an Error whose message is for
 * the user.
 */
export async function mediaOf(files, upload) {
  const share = 1 / Math.max(files.length, 1);
  return Promise.all(files.map((file) => attachment(file, share, upload)));
}

async function attachment(file, share, upload) {
  const room = Math.floor(MAX_CHARACTERS * share);
  const taken = AS_THEY_ARE.includes(file.type);
  if (taken && (file.size * 4) / 3 + 50 < room) return { type: "image", url: await asItIs(file) };
  if (!taken || file.size > MAX_UPLOADED * share) return { type: "image", url: await smaller(file, room) };
  try {
    const uploaded = await upload(file);
    shown.set(uploaded.upload_id, URL.createObjectURL(file));
    return uploaded;
  } catch {
    return { type: "image", url: await smaller(file, room) }; // it is worth sending all the same
  }
}

async function smaller(file, room) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`“${file.name}” is not an image that can be read here.`);
  }
  for (const side of SIDES) {
    for (const quality of QUALITIES) {
      const url = drawn(bitmap, side, quality);
      if (url.length <= room) return url;
    }
  }
  throw new Error(`“${file.name}” cannot be made small enough.`);
}

function drawn(bitmap, side, quality) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG knows nothing transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", quality);
}

function asItIs(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`“${file.name}” cannot be read.`));
    reader.readAsDataURL(file);
  });
}
