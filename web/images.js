/**
 * Prepares images for the model. Small images become data URLs in the message, with up to 200,000 characters together.
 * Larger images are uploaded. An image that is too large to upload, or has an unsupported type, is redrawn as a smaller
 * JPEG.
 */

const MAX_CHARACTERS = 200_000;
const MAX_UPLOADED = 2 * 1024 * 1024; // bytes: the API's limit for all uploads of one message
export const MAX_IMAGES = 8;
const SIDES = [1568, 1024, 768, 512, 320, 200]; // px: the possible lengths of the longer side of a smaller copy
const QUALITIES = [0.85, 0.6];

/**
 * The first bytes of a file of each accepted type, as Latin-1. The type does not come from the file's name, because
 * many JPEGs are called .png.
 */
const TYPES = {
  "image/png": /^\x89PNG\r\n\x1a\n/,
  "image/jpeg": /^\xff\xd8\xff/,
  "image/gif": /^GIF8[79]a/,
  "image/webp": /^RIFF....WEBP/s,
};
const LONGEST_BEGINNING = 12; // the number of first bytes that are read

// The object URLs by which the page shows files and uploads: the API does not return uploads.
const shown = new Map();

/**
 * The URL at which the page shows a file or an item of `media`. Null for an upload whose file the page does not have.
 */
export function sourceOf(image) {
  if (image instanceof Blob && !shown.has(image)) shown.set(image, URL.createObjectURL(image));
  return image.url ?? shown.get(image) ?? shown.get(image.upload_id) ?? null;
}

/** Throws an Error for the user if the browser cannot read the file as an image. */
export async function checkImage(file) {
  (await decoded(file)).close();
}

/**
 * The `media` of a message with these files. `upload` is the method of the API's client. Throws an Error with a text
 * for the user.
 */
export async function mediaOf(files, upload) {
  // one image after the other, because a decoded photo of 12 megapixels takes 48 MB
  for (const file of files) await checkImage(file);
  return Promise.all(files.map((file) => attachment(file, 1 / files.length, upload)));
}

async function attachment(file, share, upload) {
  const room = Math.floor(MAX_CHARACTERS * share);
  const typed = await withItsType(file);
  if (typed && (typed.size * 4) / 3 + 50 < room) return { type: "image", url: await dataUrl(typed) };
  if (!typed || typed.size > MAX_UPLOADED * share) return { type: "image", url: await smaller(file, room) };
  try {
    const uploaded = await upload(typed);
    shown.set(uploaded.upload_id, sourceOf(file));
    return uploaded;
  } catch (error) {
    // Without a network or a valid token, the message cannot be sent either. So fail: the user then retries the message
    // with its upload.
    if (!navigator.onLine || error.status === 401 || error.status === 403) throw error;
    // send a smaller copy in the message instead of the upload
    return { type: "image", url: await smaller(file, room) };
  }
}

/** The file with the type that its first bytes show; null if the API does not accept that type. */
async function withItsType(file) {
  const bytes = new Uint8Array(await file.slice(0, LONGEST_BEGINNING).arrayBuffer());
  const beginning = String.fromCharCode(...bytes);
  const type = Object.keys(TYPES).find((each) => TYPES[each].test(beginning));
  return type ? file.slice(0, file.size, type) : null;
}

async function decoded(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`“${file.name}” is not an image that this browser can read.`);
  }
}

async function smaller(file, room) {
  const bitmap = await decoded(file);
  try {
    for (const side of SIDES) {
      for (const quality of QUALITIES) {
        const url = drawn(bitmap, side, quality);
        if (url.length <= room) return url;
      }
    }
  } finally {
    bitmap.close();
  }
  throw new Error(`“${file.name}” is too large, even after this page made it smaller. Attach a smaller image.`);
}

function drawn(bitmap, side, quality) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // white, because JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", quality);
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
