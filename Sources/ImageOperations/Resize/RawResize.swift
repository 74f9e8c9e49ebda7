// A raw image has its file's size. What there is to do about it: never touch a device, never let a file in use change
// under its users.

import DiskTypes
import ImageChain
import LinuxIO

enum RawResize {
    static func run(_ request: FileResize.Request, _ options: OpenOptions) throws(ImageError) {
        guard request.preallocation != .metadata else {
            throw .unsupported("a raw image has no metadata to preallocate")
        }
        let file = try HostFile.open(path: request.path, writable: true, direct: .never)
        if options.lock { try ImageLock.take(.writableImage, on: file) }
        try WriterLock.take(on: file)
        let length = try file.currentLength()
        // As a guest sees it: whole sectors.
        let newSize = try request.newSize((length + 511) & ~511)
        guard !file.isBlockDevice else {
            guard newSize == length else { throw .unsupported("a device has the size that it has") }
            return
        }
        try file.truncate(to: newSize)
        if newSize > length, request.preallocation != .off {
            let (start, count) = (HostOffset(length), newSize - length)
            var isReserved = false
            if request.preallocation == .falloc { isReserved = try file.reserve(at: start, length: count) }
            if !isReserved { try DataSpace.fill(file, from: start, count) }
        }
        try file.sync()
    }
}
