// The files of an image that a server inherits from `attach`: their descriptors, and what each file must be, as an
// argument. The server must have the very files that `attach` opened.

import DiskTypes
import FoundationEssentials
import ImageChain

enum InheritedFiles {
    /// The number of the first file's descriptor; the same as in `HotPlug`.
    private static let first: Int32 = 10

    /// Takes the descriptors that `text` describes, an array of `KnownFile` in JSON.
    static func decoded(_ text: String) throws(ImageError) -> HeldFiles {
        do {
            return HeldFiles(inherited: try JSONDecoder().decode([KnownFile].self, from: Data(text.utf8)), from: first)
        } catch { throw ImageError(.malformed, "--opened-files is not what attach says") }
    }
}
