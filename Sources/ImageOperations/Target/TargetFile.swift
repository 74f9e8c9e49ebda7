// `create` and `convert` write over files. A file that another process uses, or that the result needs itself, must
// come out unharmed, whatever the user typed: everything is looked at before anything is changed.

import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import SystemPackage

/// A file or device that is about to be written from its start.
struct TargetFile {
    let file: HostFile
    /// It was not there before.
    let isNew: Bool

    /// Opens `path`, or makes it where it is not there and `mayCreate`, with a writer's lock. Changes nothing in it.
    static func open(
        _ path: FilePath, mayCreate: Bool = true, lock: Bool = true, needed: [HostFile] = []
    ) throws(ImageError) -> TargetFile {
        let target = try openOrMake(path, mayCreate: mayCreate)
        guard !needed.contains(where: { $0.identity == target.file.identity }) else {
            throw ImageError(
                .reference, "the output is the input, or a file that it needs", advice: "choose another name",
                path: path)
        }
        if lock {
            do throws(ImageError) { try ImageLock.take(.writableImage, on: target.file) } catch {
                throw error.named(path)
            }
        }
        return target
    }

    private static func openOrMake(_ path: FilePath, mayCreate: Bool) throws(ImageError) -> TargetFile {
        if mayCreate, !Filesystem.exists(path) {
            // A link that leads nowhere yet is followed, as open(2) does; the file is made under its own name.
            let place = try target(ofLink: path)
            let fd = place.open(O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0o644)
            if fd >= 0 {
                let file = try HostFile.adopt(OwnedFD(taking: fd), path: place, writable: true, direct: .never)
                return TargetFile(file: file, isNew: true)
            }
            guard errno == EEXIST else {
                throw ImageError(.system, "cannot be made: \(errorText(errno))", path: path)
            }
        }
        do {
            return TargetFile(file: try HostFile.open(path: path, writable: true, direct: .never), isNew: false)
        } catch {
            throw error.named(path)
        }
    }

    /// Where the links lead that `path` is; `path` itself where it is none.
    private static func target(ofLink path: FilePath) throws(ImageError) -> FilePath {
        var place = path
        for _ in 0..<40 {
            guard let link = place.linkTarget() else { return place }
            place = link.isAbsolute ? link : "\(place.parent)/\(link)"
        }
        throw ImageError(.system, "cannot be made: \(errorText(ELOOP))", path: path)
    }

    /// Throws away what the file had. On a device only its first bytes go: it is no image any more.
    func clear() throws(ImageError) {
        guard file.isBlockDevice else {
            // Only what has bytes: ext4 takes a file cut to nothing for one being replaced, and writes it out on close.
            if file.length > 0 { try file.truncate(to: 0) }
            return
        }
        try file.write(at: HostOffset(0), [UInt8](repeating: 0, count: Int(min(65536, file.length))))
    }

    /// Gives the file up. One that was made here goes, as long as its name still leads to it; it holds nothing.
    func abandon() {
        if isNew, Filesystem.identity(of: file.path) == file.identity { file.path.unlink() }
    }
}
