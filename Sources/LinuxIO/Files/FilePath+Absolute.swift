// Where a path leads from the root: with links resolved, or by its text behind the working folder. Records and
// processes with another working folder keep paths, so relative ones are made absolute here, and only here.
import Glibc
package import SystemPackage

extension FilePath {
    /// The working folder (getcwd(3)); nil where it has no name any more, or lies outside this process's root.
    package static var current: FilePath? {
        guard let here = unsafe getcwd(nil, 0) else { return nil }
        defer { unsafe free(here) }
        // A folder outside this process's root has a name that is no path.
        return unsafe here.pointee == CChar(bitPattern: UInt8(ascii: "/")) ? FilePath(platformString: here) : nil
    }

    /// The path without symbolic links, `.` and `..` (realpath(3)). The file must exist; otherwise its errno is thrown.
    package func realPath() throws(Errno) -> FilePath {
        guard let real = unsafe withPlatformString({ unsafe realpath($0, nil) }) else { throw .last }
        defer { unsafe free(real) }
        return unsafe FilePath(platformString: real)
    }

    /// `realPath`, or nil where it fails for any reason.
    package var realPathIfThere: FilePath? {
        do throws(Errno) { return try realPath() } catch { return nil }
    }

    /// The path behind the working folder, by its text alone: links and dots stay. An absolute path is returned as it is,
    /// and so is a relative one when the working folder has no name.
    package var absolute: FilePath { FilePath.current?.pushing(self) ?? self }

    /// `realPath` where the file exists, else `absolute`.
    package var realOrAbsolute: FilePath { realPathIfThere ?? absolute }
}
