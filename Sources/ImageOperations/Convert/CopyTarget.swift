// Why this file exists: where a conversion writes: a new sparse file, or a file or device that is there already and
// whose old bytes must not show through.

import DiskTypes
import Glibc
import ImageChain
import LinuxIO

/// A raw file or block device being written by several workers at once.
final class CopyTarget: Sendable {
    let file: HostFile
    /// What is not written reads as zeros.
    let isZero: Bool

    private init(_ file: HostFile, isZero: Bool) {
        self.file = file
        self.isZero = isZero
    }

    /// Opens or makes the target and gives it its size. Nothing is changed before all that can be wrong was looked at.
    static func open(_ path: String, for chain: ImageChain, _ options: ConvertOptions) throws(ImageError) -> CopyTarget
    {
        let file = try open(path, mayCreate: !options.intoExisting)
        guard !chain.files.contains(where: { $0.identity == file.identity }) else {
            throw ImageError(
                .reference, "the output is the input, or a file that it needs", advice: "choose another name",
                path: path)
        }
        if options.source.lock { try ImageLock.take(.writableImage, on: file) }
        guard options.intoExisting || file.isBlockDevice else {
            // Only what has bytes: ext4 takes a file cut to nothing for one being replaced, and writes it out on close.
            if file.length > 0 { try file.truncate(to: 0) }
            try file.truncate(to: chain.size)
            return CopyTarget(file, isZero: true)
        }
        guard file.length >= chain.size else {
            throw ImageError(
                .unsupported, "the output has \(file.length) bytes, the image \(chain.size)",
                advice: "make it larger", path: path)
        }
        return CopyTarget(file, isZero: options.intoExisting && options.targetIsZero)
    }

    private static func open(_ path: String, mayCreate: Bool) throws(ImageError) -> HostFile {
        if mayCreate, !Filesystem.exists(path) {
            let fd = Glibc.open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0o644)
            if fd >= 0 { return try HostFile.adopt(OwnedFD(taking: fd), path: path, writable: true, direct: .never) }
            guard errno == EEXIST else {
                throw ImageError(.system, "cannot be made: \(errorText(errno))", path: path)
            }
        }
        do {
            return try HostFile.open(path: path, writable: true, direct: .never)
        } catch {
            throw error.named(path)
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at place: UInt64) throws(ImageError) {
        try file.write(at: HostOffset(place), from: bytes)
    }

    /// Makes a range read as zeros: by a hole if possible, by zeros if not.
    func zero(at place: UInt64, length: UInt64) throws(ImageError) {
        if isZero || length == 0 { return }
        if try file.punchHole(at: HostOffset(place), length: length) { return }
        if try file.zeroRange(at: HostOffset(place), length: length) { return }
        let zeros = [UInt8](repeating: 0, count: Int(min(length, 1 << 20)))
        var done: UInt64 = 0
        while done < length {
            let part = min(length - done, UInt64(zeros.count))
            try file.write(at: HostOffset(place + done), part == zeros.count ? zeros : Array(zeros[..<Int(part)]))
            done += part
        }
    }
}
