// Generated from platform/retllm/media/file_table.py by retllm_web.render.file_script.
// The names of clutter: one group for each of GLOBS, which have a name and a reason each.
export const CLUTTER = new RegExp("(?:^|/)(?:(@eaDir)|([^/]*@SynoResource)|([^/]*@SynoEAStream)|(SYNOPHOTO_THUMB_[^/]*)|(SYNOINDEX_[^/]*)|(#recycle)|(@Recycle)|(\\$RECYCLE\\.BIN)|(RECYCLER)|(\\.Trash[^/]*)|(Network Trash Folder)|(#snapshot)|(@Recently-Snapshot)|(\\.snapshot)|(\\.zfs)|(@tmp)|(\\.@[^/]*)|(Temporary Items)|(__MACOSX)|(\\._[^/]*)|(\\.DS_Store)|(Icon\\r)|(Icon%0D)|(Thumbs\\.db)|(Thumbs\\.db:encryptable)|(ehthumbs\\.db)|(ehthumbs_vista\\.db)|(desktop\\.ini)|([^/]*:Zone\\.Identifier)|(System Volume Information)|(lost\\+found)|(found\\.00[^/])|([^/]*\\.lrdata)|([^/]*\\.lrcat)|([^/]*\\.lrcat-[^/]*)|([^/]*\\.lrcat\\.lock)|([^/]*\\.photoslibrary\\/resources)|([^/]*\\.photoslibrary\\/database)|([^/]*\\.photoslibrary\\/private)|([^/]*\\.photoslibrary\\/external)|([^/]*\\.photoslibrary\\/scopes)|([^/]*\\.photolibrary\\/Thumbnails)|([^/]*\\.photolibrary\\/Previews)|([^/]*\\.aplibrary\\/Thumbnails)|([^/]*\\.aplibrary\\/Previews)|(digikam4\\.db)|(thumbnails-digikam\\.db)|(Picasa\\.ini)|(ZbThumbnail\\.info)|(pspbrwse\\.jbf)|([^/]*\\.aae)|(print-subscriptions\\.json)|(shared_album_comments\\.json)|(user-generated-memory-titles\\.json)|(archive_browser\\.html)|(Archiv[^/]*bersicht\\.html)|(Takeout\\/[^/]*\\.html)|([^/]*\\.thm)|([^/]*\\.[^/]*~)|([^/]*\\.bak)|(_gsdata_)|(~\\$[^/]*)|(\\.git)|(\\.svn)|(\\.hg)|(\\.[^/]*))(?=/|(?![\\s\\S]))", 'i');
export const GLOBS = [
  [
    "@eaDir",
    "index and previews of a Synology"
  ],
  [
    "*@SynoResource",
    "index and previews of a Synology"
  ],
  [
    "*@SynoEAStream",
    "index and previews of a Synology"
  ],
  [
    "SYNOPHOTO_THUMB_*",
    "index and previews of a Synology"
  ],
  [
    "SYNOINDEX_*",
    "index and previews of a Synology"
  ],
  [
    "#recycle",
    "recycle bin"
  ],
  [
    "@Recycle",
    "recycle bin"
  ],
  [
    "$RECYCLE.BIN",
    "recycle bin"
  ],
  [
    "RECYCLER",
    "recycle bin"
  ],
  [
    ".Trash*",
    "recycle bin"
  ],
  [
    "Network Trash Folder",
    "recycle bin"
  ],
  [
    "#snapshot",
    "earlier states kept by a network drive"
  ],
  [
    "@Recently-Snapshot",
    "earlier states kept by a network drive"
  ],
  [
    ".snapshot",
    "earlier states kept by a network drive"
  ],
  [
    ".zfs",
    "earlier states kept by a network drive"
  ],
  [
    "@tmp",
    "temporary files of a network drive"
  ],
  [
    ".@*",
    "temporary files of a network drive"
  ],
  [
    "Temporary Items",
    "temporary files of a network drive"
  ],
  [
    "__MACOSX",
    "metadata of macOS"
  ],
  [
    "._*",
    "metadata of macOS"
  ],
  [
    ".DS_Store",
    "metadata of macOS"
  ],
  [
    "Icon\r",
    "metadata of macOS"
  ],
  [
    "Icon%0D",
    "metadata of macOS"
  ],
  [
    "Thumbs.db",
    "previews and settings of Windows"
  ],
  [
    "Thumbs.db:encryptable",
    "previews and settings of Windows"
  ],
  [
    "ehthumbs.db",
    "previews and settings of Windows"
  ],
  [
    "ehthumbs_vista.db",
    "previews and settings of Windows"
  ],
  [
    "desktop.ini",
    "previews and settings of Windows"
  ],
  [
    "*:Zone.Identifier",
    "previews and settings of Windows"
  ],
  [
    "System Volume Information",
    "previews and settings of Windows"
  ],
  [
    "lost+found",
    "remains of a file system check"
  ],
  [
    "found.00?",
    "remains of a file system check"
  ],
  [
    "*.lrdata",
    "previews and catalogue of Lightroom"
  ],
  [
    "*.lrcat",
    "previews and catalogue of Lightroom"
  ],
  [
    "*.lrcat-*",
    "previews and catalogue of Lightroom"
  ],
  [
    "*.lrcat.lock",
    "previews and catalogue of Lightroom"
  ],
  [
    "*.photoslibrary/resources",
    "previews and database of a picture library"
  ],
  [
    "*.photoslibrary/database",
    "previews and database of a picture library"
  ],
  [
    "*.photoslibrary/private",
    "previews and database of a picture library"
  ],
  [
    "*.photoslibrary/external",
    "previews and database of a picture library"
  ],
  [
    "*.photoslibrary/scopes",
    "previews and database of a picture library"
  ],
  [
    "*.photolibrary/Thumbnails",
    "previews and database of a picture library"
  ],
  [
    "*.photolibrary/Previews",
    "previews and database of a picture library"
  ],
  [
    "*.aplibrary/Thumbnails",
    "previews and database of a picture library"
  ],
  [
    "*.aplibrary/Previews",
    "previews and database of a picture library"
  ],
  [
    "digikam4.db",
    "previews and database of a picture library"
  ],
  [
    "thumbnails-digikam.db",
    "previews and database of a picture library"
  ],
  [
    "Picasa.ini",
    "previews and database of a picture library"
  ],
  [
    "ZbThumbnail.info",
    "previews and database of a picture library"
  ],
  [
    "pspbrwse.jbf",
    "previews and database of a picture library"
  ],
  [
    "*.aae",
    "changes that Apple Photos keeps beside a picture"
  ],
  [
    "print-subscriptions.json",
    "record of Google Photos that names no picture"
  ],
  [
    "shared_album_comments.json",
    "record of Google Photos that names no picture"
  ],
  [
    "user-generated-memory-titles.json",
    "record of Google Photos that names no picture"
  ],
  [
    "archive_browser.html",
    "index page of Google Takeout"
  ],
  [
    "Archiv*bersicht.html",
    "index page of Google Takeout"
  ],
  [
    "Takeout/*.html",
    "index page of Google Takeout"
  ],
  [
    "*.thm",
    "preview that a camera keeps beside a film"
  ],
  [
    "*.*~",
    "earlier state kept by a program"
  ],
  [
    "*.bak",
    "earlier state kept by a program"
  ],
  [
    "_gsdata_",
    "data of a backup program"
  ],
  [
    "~$*",
    "lock file of an office program"
  ],
  [
    ".git",
    "version history"
  ],
  [
    ".svn",
    "version history"
  ],
  [
    ".hg",
    "version history"
  ],
  [
    ".*",
    "hidden file or folder"
  ]
];
export const MAX_PLACES = 200;
// Suffixes of files that may say something of pictures and so are sent before them.
export const DESCRIBING = [
  ".txt",
  ".text",
  ".csv",
  ".tsv",
  ".token",
  ".jsonl",
  ".ndjson",
  ".json",
  ".xmp",
  ".caption"
];
// Those of captions of many pictures.
export const SHEETS = [
  ".csv",
  ".tsv",
  ".token",
  ".jsonl",
  ".ndjson",
  ".json"
];
export const PICTURES = [
  ".3fr",
  ".apng",
  ".arw",
  ".avif",
  ".bmp",
  ".cr2",
  ".cr3",
  ".crw",
  ".dib",
  ".dng",
  ".erf",
  ".fff",
  ".gif",
  ".heic",
  ".heif",
  ".hif",
  ".iiq",
  ".jfif",
  ".jpe",
  ".jpeg",
  ".jpg",
  ".jxl",
  ".kdc",
  ".mef",
  ".mos",
  ".mpo",
  ".mrw",
  ".nef",
  ".nrw",
  ".orf",
  ".pef",
  ".png",
  ".psb",
  ".psd",
  ".raf",
  ".raw",
  ".rw2",
  ".rwl",
  ".sr2",
  ".srf",
  ".srw",
  ".tif",
  ".tiff",
  ".webp",
  ".x3f"
];
