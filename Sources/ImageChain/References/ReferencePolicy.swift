// Which of the files that an image names are opened at all. The names of backing and data files come from the image,
// and an image from a stranger may name /etc/shadow, a URL or a FIFO.

package import DiskTypes
import LinuxIO
package import SystemPackage

/// Where files that an image refers to may lie: the folder of the image that was asked for, and what the user allows.
package struct ReferencePolicy: Sendable {
    private let folders: [FilePath]
    private let workingFolder: FilePath?

    /// `image` is the name the user gave. Both the folder of that name and, where it is a link, the folder of the
    /// file itself count as the image's own. `workingFolder`: of the process that the user started; nil: of this one.
    package init(image: FilePath, allowed: [FilePath], workingFolder: FilePath? = nil) {
        var roots = [image.parent]
        if let real = image.realPathIfThere { roots.append(real.parent) }
        folders = (roots + allowed).compactMap(\.realPathIfThere)
        self.workingFolder = workingFolder
    }

    /// The backing file `text`, found in the image `path`, and its format: the one of name `header` that the image gives
    /// beside the name, else the one that JSON names.
    package func resolveBacking(
        _ text: FileName, format header: String?, from path: FilePath
    ) throws(ImageError) -> (path: FilePath, format: ImageFormat?) {
        let format = try ImageFormat.named(header)
        let found = try resolve(text, format: header, from: path, role: "backing file")
        return (found.path, format ?? found.format)
    }

    /// The name to open for `text`, found in the image `path`, and the format that JSON names for it. Relative names count
    /// from that image's folder; behind `file:` and in JSON from the working folder, as with QEMU.
    package func resolve(
        _ text: FileName, format header: String? = nil, from path: FilePath, role: String
    ) throws(ImageError) -> (path: FilePath, format: ImageFormat?) {
        let reference = try Reference(text, header: header, role: role)
        let given = reference.isFromWorkingFolder ? reference.name : BackingName.full(reference.name, in: path)
        guard var name = FilePath(given) else { throw .malformed("the \(role) name contains a NUL byte") }
        if reference.isFromWorkingFolder, let workingFolder { name = workingFolder.pushing(name) }
        try judge(name, text, role)
        return (name, reference.format)
    }

    /// QEMU looks for an external data file from the working folder, this program from the image's. Where both find one,
    /// and not the same, neither is taken.
    package func refuseTwoDataFiles(_ text: FileName, opened path: FilePath) throws(ImageError) {
        guard let reference = FilePath(text), !reference.isAbsolute, !BackingName.hasProtocol(text) else { return }
        let other = workingFolder?.pushing(reference) ?? reference
        guard let theirs = Filesystem.identity(of: other), let ours = Filesystem.identity(of: path), theirs != ours
        else {
            return
        }
        throw ImageError(
            .reference,
            "the data file \"\(text)\" may be \(path) or, as QEMU takes it, \(other.absolute)",
            advice: "run this in the image's folder")
    }

    private func judge(_ name: FilePath, _ reference: FileName, _ role: String) throws(ImageError) {
        // Outside the folder, whether the file exists is not told.
        let real = name.realPathIfThere
        guard isAllowed(real ?? missingPath(name)) else {
            throw ImageError(
                .reference, "the \(role) \"\(reference)\" lies outside the image's folder",
                advice: "say --allow-path \((real ?? name).parent) if you trust it")
        }
        guard real != nil else {
            throw ImageError(
                .reference, "the \(role) \"\(reference)\" is not there", advice: "looked for \(name)")
        }
    }

    /// Holds the file that was really opened against the policy: names can change between check and open.
    package func confirm(descriptor: Int32, role: String) throws(ImageError) {
        guard let real = FilePath("/proc/self/fd/\(descriptor)").linkTarget(), isAllowed(real) else {
            throw ImageError(.reference, "the \(role) moved outside the image's folder while it was opened")
        }
    }

    private func isAllowed(_ real: FilePath) -> Bool { folders.contains { real.isBelow($0) } }

    /// Where a file that does not exist would be, links on the way resolved. Empty where what is missing first lies outside the
    /// allowed folders: whether a folder is there is not told either.
    private func missingPath(_ name: FilePath) -> FilePath {
        var name = name
        for _ in 0..<Self.mostLinks {
            let (folder, rest) = Self.firstMissing(name)
            guard let real = folder.realPathIfThere, let first = rest.first else { return FilePath() }
            let missing = real.appending(first)
            guard isAllowed(missing) else { return FilePath() }
            let behind = FilePath(root: nil, rest.dropFirst())
            guard let target = missing.linkTarget() else { return missing.pushing(behind).lexicallyNormalized() }
            name = real.pushing(target).pushing(behind)
        }
        return FilePath()
    }

    /// As many symbolic links as Linux follows in one path (path_resolution(7)).
    private static let mostLinks = 40

    /// The longest part of `name` from its beginning that is there, and the components behind it.
    private static func firstMissing(_ name: FilePath) -> (folder: FilePath, rest: [FilePath.Component]) {
        var folder = name
        var rest: [FilePath.Component] = []
        while let last = folder.lastComponent {
            folder = folder.parent
            rest.insert(last, at: 0)
            // `.` of a name without a folder has no parent of its own.
            if folder.realPathIfThere != nil || folder == "." { break }
        }
        return (folder, rest)
    }
}
