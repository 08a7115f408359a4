// The bundler includes the style sheets that scripts import.
declare module "*.css";
