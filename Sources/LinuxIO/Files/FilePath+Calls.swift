// System calls that take a path, so that its bytes reach the kernel as they are.
import Glibc
package import SystemPackage

extension FilePath {
    /// open(2): a descriptor, or -1 and errno.
    package func open(_ flags: Int32, _ mode: UInt32 = 0) -> Int32 {
        unsafe withPlatformString { unsafe Glibc.open($0, flags, mode) }
    }

    /// stat(2), or lstat(2): nil and errno where it fails.
    func status(followingLinks: Bool = true) -> stat? {
        unsafe withPlatformString { unsafe fileStatus($0, followingLinks) }
    }

    /// The type of the file that the path leads to, as S_IFMT has it; nil where there is none.
    package var fileType: UInt32? { status().map { $0.st_mode & S_IFMT } }

    /// The number of names that the file at this path has; nil where there is none.
    package var linkCount: UInt64? { status().map { UInt64($0.st_nlink) } }

    /// unlink(2): 0, or -1 and errno.
    @discardableResult package func unlink() -> Int32 { unsafe withPlatformString { unsafe Glibc.unlink($0) } }

    /// rename(2): 0, or -1 and errno.
    package func rename(to other: FilePath) -> Int32 {
        unsafe withPlatformString { old in unsafe other.withPlatformString { unsafe Glibc.rename(old, $0) } }
    }

    /// Where the symbolic link at this path leads, as it stands there; nil and errno where it is none.
    package func linkTarget() -> FilePath? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
        let count = unsafe withPlatformString { unsafe readlink($0, &buffer, Int(PATH_MAX)) }
        guard count > 0 else { return nil }
        return FilePath(bytes: buffer[..<count].map { UInt8(bitPattern: $0) })
    }
}

/// Outside FilePath, which has a `stat` of its own.
private func fileStatus(_ path: UnsafePointer<CChar>, _ followingLinks: Bool) -> stat? {
    var status = stat()
    let result = unsafe followingLinks ? stat(path, &status) : lstat(path, &status)
    return result == 0 ? status : nil
}
