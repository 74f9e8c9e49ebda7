// Where a conversion writes: a new sparse file, or a file or device that is there already and whose old bytes must
// not show through.

import DiskTypes
import ImageChain
import LinuxIO
import SystemPackage

/// A raw file or block device being written by several workers at once.
final class CopyTarget: TargetLane, Sendable {
    let file: HostFile
    /// What is not written reads as zeros.
    let isZero: Bool
    /// Where the disk's first byte goes.
    let start: HostOffset

    init(_ file: HostFile, isZero: Bool, start: HostOffset = HostOffset(0)) {
        self.file = file
        self.isZero = isZero
        self.start = start
    }

    /// Opens or makes the target and gives it its size. Nothing is changed before all that can be wrong was looked at.
    static func open(_ path: FilePath, for chain: ImageChain, _ options: ConvertOptions) throws(ImageError)
        -> CopyTarget
    {
        let target = try TargetFile.open(
            path, mayCreate: !options.intoExisting, lock: options.source.lock, needed: chain.files)
        let file = target.file
        guard options.intoExisting || file.isBlockDevice else {
            try target.clear()
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

    func write(_ bytes: UnsafeRawBufferPointer, at place: UInt64) throws(ImageError) {
        try unsafe file.write(at: start + place, from: bytes)
    }

    /// Makes a range read as zeros: by a hole if possible, by zeros if not.
    func zero(at place: UInt64, length: UInt64) throws(ImageError) {
        if isZero || length == 0 { return }
        if try file.punchHole(at: start + place, length: length) { return }
        if try file.zeroRange(at: start + place, length: length) { return }
        let zeros = [UInt8](repeating: 0, count: Int(min(length, 1 << 20)))
        var done: UInt64 = 0
        while done < length {
            let part = min(length - done, UInt64(zeros.count))
            try file.write(at: start + (place + done), part == zeros.count ? zeros : Array(zeros[..<Int(part)]))
            done += part
        }
    }
}
